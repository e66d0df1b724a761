"""A run read back from its workdir: what somebody has edited or cut is refused in words."""

import json

import pytest

from accordion_jax import training
from accordion_jax.depth.policy_file import Entry, PolicyFile
from accordion_jax.runs.folder import CONFIG_FILE, MODEL_FILE, POLICY_FILE
from tests.training.test_loop import make


@pytest.fixture
def workdir(tmp_path):
    training.claim_workdir(tmp_path, make(), write=True)
    return tmp_path


def edited(path, **changes):
    document = json.loads(path.read_text())
    document |= changes
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


@pytest.mark.parametrize("name", [CONFIG_FILE, MODEL_FILE])
@pytest.mark.parametrize("text", ["{}", "[]", "null", '"config"', "{", "\xff", ""])
def test_a_file_that_is_no_description_is_named(workdir, name, text):
    (workdir / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=name) as caught:
        training.load_run(workdir)
    assert "damaged" in str(caught.value) or "family None is not known" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arguments": None}, "resnet needs the argument 'num_classes'"),
        ({"arguments": [1, 2]}, "arguments"),
        ({"family": ["resnet"]}, r"family \['resnet'\] is not known"),
        ({"input": {"kind": "sounds"}}, "kind 'sounds' is not known"),
        ({"input": None}, "damaged: it has no object 'input'"),
    ],
)
def test_a_description_that_makes_no_network_is_told_in_words(workdir, changes, words):
    edited(workdir / MODEL_FILE, **changes)
    with pytest.raises(ValueError, match=words):
        training.load_run(workdir)


def test_a_field_of_the_config_that_was_edited_is_named(workdir):
    edited(workdir / CONFIG_FILE, config={"train": {"batch_size": "many"}})
    with pytest.raises(ValueError, match=r"config\.train\.batch_size='many' must be a number"):
        training.load_run(workdir)
    with pytest.raises(ValueError, match=r"config\.train\.batch_size: 'many' -> 64"):
        training.claim_workdir(workdir, make(), write=True)


def test_a_missing_file_is_named(workdir):
    (workdir / MODEL_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json does not exist"):
        training.load_run(workdir)


def test_the_run_keeps_what_its_policy_was_made_of(workdir):
    kept = json.loads((workdir / POLICY_FILE).read_text())
    assert kept == make().policy.describe()
    assert kept["made_of"]["name"] == "full_or_uniform"
    edited(workdir / POLICY_FILE, digest="0" * 64)
    with pytest.raises(ValueError, match="what the policy was made of: 0000"):
        training.claim_workdir(workdir, make(), write=True)


def test_a_run_of_a_policy_file_keeps_its_content_and_refuses_another(tmp_path):
    def experiment(probabilities):
        ladder = make().ladder
        entries = tuple(
            Entry(each.name, ladder.stage_blocks(each), 100 + i, probability)
            for i, (each, probability) in enumerate(zip(ladder, probabilities, strict=True))
        )
        PolicyFile("coml", entries, {}, {"command": "x"}).write(tmp_path / "link.json")
        config = make().config.copy_and_resolve_references()
        config.policy.name, config.policy.path = "file", str(tmp_path / "link.json")
        return training.make_experiment(config, 8)

    count = len(make().ladder)
    first = experiment([1 / count] * count)
    workdir = tmp_path / "run"
    training.claim_workdir(workdir, first, write=True)
    kept = json.loads((workdir / POLICY_FILE).read_text())
    assert kept["probabilities"] == pytest.approx([1 / count] * count)
    assert kept["made_of"]["content"]["provenance"] == {"command": "x"}
    assert training.provenance(first, 0)["name"].endswith("-link")
    training.claim_workdir(workdir, experiment([1 / count] * count), write=True)
    other = experiment([0.0] * (count - 1) + [1.0])
    with pytest.raises(ValueError, match="what the policy was made of"):
        training.claim_workdir(workdir, other, write=True)


def test_provenance_says_what_was_trained():
    whole, half = make(), make()
    with whole.config.unlocked():
        whole.config.scheme = "resnet"
    whole = training.make_experiment(whole.config, 8)
    facts = [training.provenance(each, 3) for each in (whole, half)]
    assert [each["full_probability"] for each in facts] == [1.0, 0.5]
    assert facts[0]["policy"]["name"] == "full_or_uniform"
    assert facts[0]["policy"]["digest"] != facts[1]["policy"]["digest"]
    assert {each["error_name"] for each in facts} == {"top-1 error"}


def test_provenance_says_nothing_of_this_machine(tmp_path):
    folders = {"data__dir": str(tmp_path), "run__compilation_cache": str(tmp_path / "cache")}
    experiment = make(**folders)
    facts = training.provenance(experiment, 3)
    assert str(tmp_path) not in json.dumps(facts)
    assert experiment.config.data.dir == str(tmp_path)
    assert facts["config"] == training.provenance(make(), 3)["config"]
