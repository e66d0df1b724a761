"""docs/extending.md: each worked example trains, and what it makes is right on the device."""

import contextlib
import re

import numpy as np
import pytest

from accordion_jax import data, evaluation, models, tasks, training
from accordion_jax.data import loading
from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.runtimes.examples import share_wrong
from accordion_jax.delivery.runtimes.runtime import Runtime
from accordion_jax.depth import POLICIES
from accordion_jax.models.costs import unit_costs
from accordion_jax.runs.grid import load_config
from accordion_jax.training import OBJECTIVES
from tests.commands import ROOT
from tests.delivery.servers import serving

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(autouse=True)
def _entries_are_undone():
    """What an example enters into a dictionary is there for its test alone."""
    entered = (tasks.KINDS, models.FAMILIES, loading.LOADERS, POLICIES, OBJECTIVES)
    before = [dict(each) for each in entered]
    yield
    for there, entries in zip(entered, before, strict=True):
        there.clear()
        there.update(entries)


def experiment_of(name, **changes):
    config = load_config(str(EXAMPLES / f"{name}.py"))
    changes = {"run.compilation_cache": "off", "run.eval_every_epochs": 0.0} | changes
    with config.unlocked():
        for field, value in changes.items():
            *sections, last = field.split(".")
            section = config
            for each in sections:
                section = section[each]
            section[last] = value
    return training.make_experiment(config, 8)


def trained(tmp_path, name, **changes):
    """(experiment, its variables after training, its table on the test split)."""
    experiment = experiment_of(name, **changes)
    state = training.train(experiment, tmp_path / name)
    return experiment, *measured(experiment, state.variables)


def measured(experiment, variables):
    test = data.load(experiment.train.name, "test")
    counts = evaluation.Sweep(experiment.model, experiment.ladder.skip_masks, test)(variables)
    variables = data.unreplicate(variables)
    base, blocks = unit_costs(experiment.model, variables, experiment.example_shape)
    facts = training.provenance(experiment, 0)
    return variables, evaluation.make_table(experiment.ladder, counts, base, blocks, facts)


def bundled(folder, experiment, variables, table):
    return write_bundle(
        folder,
        **bundle_parts(
            variables,
            base_names=experiment.model.base_names,
            block_names=experiment.model.block_names,
            description=experiment.description,
            ladder=experiment.ladder,
            table=table,
        ),
    )


def on_the_device(tmp_path, bundle, inputs):
    """What the device answers at each configuration that it uses, fetched over HTTP."""
    answers = {}
    with serving(bundle) as (url, _), contextlib.ExitStack() as stack:
        transport = stack.enter_context(contextlib.closing(HttpTransport(url)))
        device = Device(transport, SegmentCache(tmp_path / "cache"))
        stack.enter_context(contextlib.closing(device)).connect()
        runtime = Runtime(device, batch_sizes=(len(inputs),))
        stack.enter_context(contextlib.closing(runtime))
        for configuration in read_manifest(bundle).ladder:
            device.upgrade(configuration.name)
            # The best that is complete: by the table, that may be a smaller one.
            assert runtime.wait(120, configuration=device.in_use.name), runtime.problems
            answers[device.in_use.name] = runtime.predict(inputs).outputs
    return answers


def test_a_token_task_is_right_on_the_device_at_every_depth(tmp_path):
    experiment, variables, table = trained(tmp_path, "tokens", **{"train.steps": 120})
    assert table.provenance["error_name"] == "token error"
    assert table.full.top1_error < table.rows[0].top1_error < 0.95
    test = data.load("sums", "test")
    assert table.full.examples == test.targets.size  # every token is an answer
    bundle = bundled(tmp_path / "bundles", experiment, variables, table)
    assert read_manifest(bundle).model["input"] == {"kind": "tokens", "length": 8, "vocabulary": 13}
    answers = on_the_device(tmp_path, bundle, test.inputs)
    assert table.rows[0].configuration in answers
    for name, outputs in answers.items():
        row = table.row(name)
        error = share_wrong(experiment.task, outputs, test.targets)
        assert error == pytest.approx(row.top1_error, abs=2 / row.examples)


def test_a_device_without_the_task_refuses_its_tokens(tmp_path, monkeypatch):
    experiment = experiment_of("tokens")
    variables, table = measured(experiment, data.replicate(experiment.init().variables))
    bundle = bundled(tmp_path / "bundles", experiment, variables, table)
    monkeypatch.delitem(tasks.KINDS, "tokens")
    with pytest.raises(Exception, match="kind 'tokens' is not known here"):
        on_the_device(tmp_path, bundle, np.zeros((1, 8), np.uint8))


def test_a_family_takes_its_own_argument_from_the_config(tmp_path):
    experiment, variables, table = trained(tmp_path, "family", **{"train.steps": 60})
    assert experiment.model.width == 48
    assert variables["params"]["layer01"]["kernel"].shape == (48, 48)
    assert table.rows[0].macs == 64 * 48 + 48 * 10
    assert table.full.top1_error < 0.3
    bundle = bundled(tmp_path / "bundles", experiment, variables, table)
    test = data.load("digits", "test")
    for name, outputs in on_the_device(tmp_path, bundle, test.inputs).items():
        error = share_wrong(experiment.task, outputs, test.targets)
        assert error == pytest.approx(table.row(name).top1_error, abs=2 / 360)
    with pytest.raises(ValueError, match=r"perceptron has no argument 'depth'; it has \['blocks'"):
        experiment_of("family", **{"model.arguments.depth": 3})


def test_a_policy_is_chosen_by_name_and_kept_with_the_run(tmp_path):
    experiment = experiment_of("policy")
    probabilities = experiment.policy.probabilities
    assert probabilities[1] == pytest.approx(0.7 * probabilities[0])
    assert experiment.policy.made_of == {"name": "geometric", "ratio": 0.7}
    training.claim_workdir(tmp_path, experiment, write=True)
    other = experiment_of("policy", **{"policy.ratio": 0.6})
    with pytest.raises(ValueError, match=r"config\.policy\.ratio: 0\.7 -> 0\.6"):
        training.claim_workdir(tmp_path, other, write=True)
    with pytest.raises(ValueError, match=r"ratio=2\.0 must be"):
        experiment_of("policy", **{"policy.ratio": 2.0})


def test_an_objective_is_one_function(tmp_path):
    experiment = experiment_of("objective", **{"train.steps": 3})
    draws = [experiment.draw(step) for step in range(30)]
    assert all(experiment.ladder.full.skip_mask in each.skip_masks for each in draws)
    assert {each.weights for each in draws} == {(1.0,), (0.6, 0.4)}
    state = data.unreplicate(training.train(experiment, tmp_path))
    assert int(state.step) == 3


def test_the_page_names_every_example_and_each_tells_how_it_is_run():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    assert set(re.findall(r"examples/(\w+\.py)", page)) == examples
    for path in EXAMPLES.glob("*.py"):
        assert f"docs/examples/{path.name}" in path.read_text(encoding="utf-8")
