"""Config: values are checked in words, and a changed experiment is noticed."""

import importlib.util
import json
import pathlib

import pytest

from accordion_jax.depth import LookupTable
from accordion_jax.runs import config as config_lib
from accordion_jax.runs import stored_config

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def load(path, *arguments):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(*arguments)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_says_how_to_run_it(path):
    module, config = load(path)
    config_lib.validate(config)
    assert f"python -m accordion_jax.main --config=configs/{path.name}" in module.__doc__
    assert config.name.startswith(path.stem)
    assert config_lib.to_jsonable(config).keys() == (
        config_lib.to_jsonable(config_lib.default_config()).keys()
    )


def test_every_method_of_the_figure_is_a_run_of_its_own():
    path = next(p for p in CONFIGS if p.stem == "figure")
    module, _ = load(path)
    names = set()
    for network in module.NETWORKS:
        for method in module.METHODS:
            _, config = load(path, f"{network}_{method}")
            config_lib.validate(config)
            names.add(config_lib.run_name(config))
            # As much time for each: a step that costs half is taken twice as often.
            plain = module.NETWORKS[network][2]
            assert config.train.epochs * module.COSTS[method] == pytest.approx(plain, rel=0.01)
    assert len(names) == len(module.NETWORKS) * len(module.METHODS)
    assert "figure_resnet20_coml-05-expected-distilled" in names
    with pytest.raises(ValueError, match="'resnet20_mine' is not known; wanted NETWORK_METHOD"):
        load(path, "resnet20_mine")


def test_every_policy_of_the_link_grid_is_a_run_of_its_own_with_as_much_arithmetic(monkeypatch):
    module, _ = load(next(p for p in CONFIGS if p.stem == "link"))
    figure = "results/figure/figure_resnet20_coml-05-expected-distilled_seed0"
    monkeypatch.setattr(module, "PILOT", figure)
    table = LookupTable.read(CONFIGS[0].parents[1] / figure)
    macs = [row.macs for row in table.rows]
    variants, names = [*module.variants(), "pilot"], set()
    for variant in variants:
        config = module.get_config(variant)
        config_lib.validate(config)
        names.add(config_lib.run_name(config))
        share = module.get_config(f"{variant}_2").train.epochs / config.train.epochs
        assert share == pytest.approx(2 / module.EPOCHS, rel=0.01)
    assert len(names) == len(variants) >= 20
    assert {"link_coml-01-minimax-distilled", "link_resnet", "link_coml-link-65ms"} <= names
    uniform, half = module.get_config("01_drawn"), module.get_config("05_drawn")
    assert uniform.train.epochs * sum(macs) / 10 == pytest.approx(
        module.EPOCHS * macs[-1], rel=0.001
    )
    assert half.train.epochs * (sum(macs[1:-1]) / 16 + macs[-1] / 2) == pytest.approx(
        module.EPOCHS * macs[-1], rel=0.001
    )
    references = module.get_config("01_minimax").objective.references
    assert references == pytest.approx([row.cross_entropy for row in table.rows], abs=1e-4)
    for unknown in ("mine_drawn", "05_mine", "05", "resnet_drawn", "05_drawn_x"):
        with pytest.raises(ValueError, match=f"{unknown!r} is not known; wanted pilot, or one of"):
            module.get_config(unknown)


def test_the_papers_hyper_parameters():
    for depth, n, dataset in ((110, 18, "cifar100"), (56, 9, "cifar10")):
        for scheme in ("resnet", "coml", "blockcoml"):
            path = next(p for p in CONFIGS if p.stem == f"resnet{depth}_{scheme}")
            _, config = load(path)
            assert (config.scheme, config.data.name) == (scheme, dataset)
            assert config.model.arguments.stage_sizes == (n, n, n)
            assert (config.train.epochs, config.train.batch_size) == (164, 124)
            optimizer = config.optimizer
            assert (optimizer.learning_rate, optimizer.decay_epochs) == (0.1, (82, 123))
            assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
            _, fast = load(path, "fast")
            assert fast.train.epochs == 30
            assert fast.name == f"{config.name}_fast"


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'slow' is not known"):
        config_lib.apply_variant(config_lib.default_config(), "slow")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.dtype", "float16", r"config.model.dtype='float16' must be one of"),
        ("run.compile", "ahed", "did you mean 'ahead'"),
        ("train.batch_size", 0, "config.train.batch_size=0 must be at least 1"),
        ("optimizer.momentum", 1.0, r"must be in \[0, 1\)"),
        ("sweep.split", "validation", "set config.data.holdout"),
        ("train.epochs", float("inf"), "config.train.epochs=inf must be at most 1e"),
        ("train.epochs", float("nan"), "config.train.epochs=nan must be at least 0"),
        ("seed", 2**32, "config.seed=4294967296 must be at most"),
        ("run.log_every_steps", True, "config.run.log_every_steps=True must be a number"),
        ("model.width", 3, "config.model.width is not a field"),
        ("model.stage_sizes", (1,), "config.model.stage_sizes is now config.model.arguments.stage"),
        ("objectiv", 3, "config.objectiv is not a field; did you mean"),
    ],
)
def test_bad_values_are_named(field, value, words):
    config = config_lib.default_config()
    *sections, name = field.split(".")
    section = config
    for each in sections:
        section = section[each]
    section[name] = value
    with pytest.raises(ValueError, match=words):
        config_lib.validate(config)


def test_json_round_trip_and_differences():
    config = config_lib.default_config()
    config.policy.full_probability = 0.3
    document = config_lib.to_jsonable(config)
    assert config_lib.to_jsonable(stored_config.from_jsonable(document)) == document
    other = stored_config.from_jsonable(document)
    other.seed, other.run.log_every_steps, other.sweep.examples = 5, 1, 9
    other.run.scan_stages = True  # the same training, carried out in another way
    found = stored_config.differences(document, config_lib.to_jsonable(other))
    assert found == ["config.seed: 0 -> 5"]


def test_a_field_that_an_older_version_lacked_has_its_default():
    asked = config_lib.to_jsonable(config_lib.default_config())
    old = {name: value for name, value in asked.items() if name != "policy"}
    old["policy"] = {"full_probability": 0.5}
    assert stored_config.differences(old, asked) == []
    asked["policy"]["seed"] = 4
    assert stored_config.differences(old, asked) == ["config.policy.seed: -1 -> 4"]


def test_a_field_of_another_version_is_named():
    with pytest.raises(ValueError, match=r"config\.train\.epoch is not a field; did you mean"):
        stored_config.from_jsonable({"train": {"epoch": 3}})


def test_sections_of_others_may_have_fields_of_their_own():
    config = config_lib.default_config()
    config.model.arguments.width = 3
    config.policy.trace = "link.csv"
    config_lib.validate(config)
    again = stored_config.from_jsonable(config_lib.to_jsonable(config))
    assert (again.model.arguments.width, again.policy.trace) == (3, "link.csv")


PAPERS = {"full_probability": 0.5, "min_depth": 1}


@pytest.mark.parametrize(
    ("section", "known", "changes", "found"),
    [
        ("policy", tuple(PAPERS), {}, PAPERS),
        ("policy", ("probabilities",), {"probabilities": (1.0,)}, {"probabilities": (1.0,)}),
        ("policy", ("probabilities",), {"min_depth": 2}, {"probabilities": ()}),
        ("policy", ("probabilities",), {"trace": "a"}, "trace='a': X has no such field"),
        ("data", (), {}, {}),
        ("data", (), {"crop": 0}, "crop=0: X has no such field; it has none"),
    ],
)
def test_a_field_goes_to_whose_it_is_or_is_refused(section, known, changes, found):
    config = config_lib.default_config()
    for name, value in changes.items():
        config[section][name] = value
    if isinstance(found, str):
        with pytest.raises(ValueError, match=rf"config\.{section}\.{found}"):
            config_lib.own_fields(config, section, known, "X")
    else:
        assert config_lib.own_fields(config, section, known, "X") == found


def test_the_config_of_an_earlier_version_is_read_as_what_it_was():
    new = config_lib.to_jsonable(config_lib.default_config())
    old = json.loads(json.dumps(new))
    old["model"] |= old["model"].pop("arguments")
    del old["model"]["own_heads"]
    for name in ("name", "seed"):
        del old["policy"][name]
    for name in ("name", "arguments"):
        del old["optimizer"][name]
    del old["objective"]
    assert stored_config.differences(old, new) == []
    assert config_lib.to_jsonable(stored_config.from_jsonable(old)) == new
    old["policy"]["probabilities"] = [0.5, 0.5]
    assert stored_config.from_jsonable(old).policy.name == "listed"


def test_an_argument_that_a_family_has_got_since_has_its_default():
    new = config_lib.to_jsonable(config_lib.default_config())
    old = json.loads(json.dumps(new))
    del old["model"]["arguments"]["own_heads"]
    assert stored_config.differences(old, new) == []
    assert config_lib.to_jsonable(stored_config.from_jsonable(old)) == new
    new["model"]["arguments"]["own_heads"] = True
    (said,) = stored_config.differences(old, new)
    assert said == "config.model.arguments.own_heads: False -> True"
    old["model"] |= {"family": "perceptron", "arguments": {"blocks": 2}}
    assert dict(stored_config.from_jsonable(old).model.arguments) == {"blocks": 2}


def test_flags_of_moved_fields_say_where_they_are_now():
    flags = ["--config.model.stage_sizes=(3,3,3)", "--config.seed=1", "--workdir=x"]
    assert stored_config.moved_fields(flags) == [
        "config.model.stage_sizes is now config.model.arguments.stage_sizes"
    ]
    assert stored_config.moved_fields(["--config.objective=expected"]) == [
        "config.objective is now config.objective.name"
    ]


def test_run_names_carry_the_papers_suffix():
    config = config_lib.default_config()
    assert config_lib.run_name(config) == "resnet110_coml-05"
    config.policy.full_probability = 0.3
    assert config_lib.run_name(config) == "resnet110_coml-03"
    config.scheme = "resnet"
    assert config_lib.run_name(config) == "resnet110_coml"


def test_a_run_from_before_policies_had_a_path_goes_on():
    config = config_lib.default_config()
    before = config_lib.to_jsonable(config)
    del before["policy"]["path"]
    assert stored_config.differences(before, config_lib.to_jsonable(config)) == []
    config.policy.path = "link.json"
    assert stored_config.differences(before, config_lib.to_jsonable(config)) == [
        "config.policy.path: '' -> 'link.json'"
    ]


def test_what_is_as_in_the_default_can_be_left_out():
    default = config_lib.to_jsonable(config_lib.default_config())
    assert config_lib.changed(default, default) == {}
    config = config_lib.default_config()
    config.train.epochs = 7.0
    config.train.bits = (4, 32)
    config.model.arguments.own_heads = True
    config.data.name = "digits"
    assert config_lib.changed(config_lib.to_jsonable(config), default) == {
        "data": {"name": "digits"},
        "model": {"arguments": {"own_heads": True}},
        "train": {"epochs": 7.0, "bits": [4, 32]},
    }
    assert config_lib.changed({"a": {"b": 1}}, {"a": 2}) == {"a": {"b": 1}}
