"""The loop: resuming, stopping, diverging, and how often it compiles."""

import json
import os
import signal

import chex
import jax
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.runs import config as config_lib
from accordion_jax.training import step as step_lib
from accordion_jax.training.metrics import MetricWriter


def small_config(**overrides):
    config = config_lib.default_config()
    config.name = "small"
    config.model.arguments.stage_sizes = (1, 1)
    config.model.arguments.channels = (4, 8)
    config.data.name = "digits"
    config.data.pad = 1
    config.train.batch_size = 64
    config.train.steps = 6
    config.optimizer.learning_rate = 0.02
    config.run.checkpoint_every_steps = 3
    config.run.log_every_steps = 2
    config.run.eval_every_epochs = 0.0
    for name, value in overrides.items():
        *sections, field = name.split("__")
        section = config
        for each in sections:
            section = section[each]
        section[field] = value
    return config


def make(**overrides):
    return training.make_experiment(small_config(**overrides), jax.device_count())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The state after six steps without a break, and its workdir."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return data.unreplicate(training.train(make(), workdir)), workdir


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_run_goes_on_with_its_stages_scanned(tmp_path):
    sizes = {"model__arguments__stage_sizes": (2, 1), "policy__full_probability": 1.0}
    first = training.train(make(train__steps=3, **sizes), tmp_path)
    scanned = make(run__scan_stages=True, **sizes)
    assert scanned.model.scan_stages
    training.claim_workdir(tmp_path, make(train__steps=6, **sizes), write=True)
    training.claim_workdir(tmp_path, scanned, write=True)
    resumed = training.train(scanned, tmp_path)
    assert int(data.unreplicate(resumed.step)) == 6
    assert jax.tree.structure(resumed) == jax.tree.structure(first)


def test_resumed_run_equals_unbroken_one_bit_for_bit(tmp_path, unbroken):
    training.train(make(train__steps=3), tmp_path)
    resumed = data.unreplicate(training.train(make(), tmp_path))
    assert int(resumed.step) == 6
    assert_same(resumed, unbroken[0])
    steps = [
        [record["step"] for record in training.read_metrics(folder / "metrics.jsonl")]
        for folder in (unbroken[1], tmp_path)
    ]
    assert steps[0] == [2, 4, 6]
    assert sorted({*steps[1]}) == [2, 3, 4, 6]


def test_another_seed_is_another_run(tmp_path, unbroken):
    config = small_config()
    config.seed = 1
    other = data.unreplicate(training.train(training.make_experiment(config, 8), tmp_path))
    assert not np.array_equal(
        other.params["stem"]["conv"]["kernel"], unbroken[0].params["stem"]["conv"]["kernel"]
    )


def test_sigterm_saves_and_names_the_step(tmp_path, unbroken):
    experiment = make(run__checkpoint_every_steps=2)

    def evaluate(_variables):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"error": 0.5}

    experiment.config.run.eval_every_epochs = 2 / experiment.steps_per_epoch
    with pytest.raises(training.Preempted) as stopped:
        training.train(experiment, tmp_path, evaluate=evaluate)
    assert stopped.value.step == 3
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same(data.unreplicate(training.train(make(), tmp_path)), unbroken[0])
    # It stopped between two records; the next one holds the steps before the break too.
    curves = [
        [
            (record["step"], record["loss"], record["error"], record["mean_depth"])
            for record in training.read_metrics(folder / "metrics.jsonl")
            if record["split"] == "train"
        ]
        for folder in (unbroken[1], tmp_path)
    ]
    assert [step for step, *_ in curves[0]] == [2, 4, 6]
    assert curves[0] == curves[1]


def test_the_sizes_of_both_losses_are_recorded_over_a_break_too(tmp_path):
    # Steps that draw the smallest configuration have no pupils, and so no such sizes.
    fields = {
        "objective__name": "nested",
        "objective__distillation": 0.5,
        "run__checkpoint_every_steps": 1,
        "run__log_every_steps": 5,
    }
    training.train(make(**fields), tmp_path / "unbroken")
    experiment = make(**fields)

    def evaluate(_variables):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"error": 0.5}

    experiment.config.run.eval_every_epochs = 3 / experiment.steps_per_epoch
    with pytest.raises(training.Preempted) as stopped:
        training.train(experiment, tmp_path / "broken", evaluate=evaluate)
    assert stopped.value.step == 4
    training.train(make(**fields), tmp_path / "broken")
    names = ("step", "loss", "error", "task_loss", "distillation_loss")
    unbroken, broken = (
        [
            {name: record.get(name) for name in names}
            for record in training.read_metrics(tmp_path / folder / "metrics.jsonl")
            if record["split"] == "train"
        ]
        for folder in ("unbroken", "broken")
    )
    assert broken == unbroken
    depths = [experiment.draw(step).depth for step in range(6)]
    assert [record["step"] for record in unbroken] == [5, 6]
    taught = [max(depths[:5]) > 1, depths[5] > 1]
    assert [record["distillation_loss"] is not None for record in unbroken] == taught
    assert taught[0]
    assert 1 in depths[:5]


# One configuration, so that one step is compiled.
DIVERGING = {"optimizer__learning_rate": 1e9, "policy__full_probability": 1.0}


def test_loss_that_is_not_finite_names_step_and_last_checkpoint(tmp_path):
    experiment = make(**DIVERGING, run__checkpoint_every_steps=1)
    with pytest.raises(training.DivergedError, match=r"step \d .*checkpoint"):
        training.train(experiment, tmp_path)
    with_state = training.Checkpoints(tmp_path / "checkpoints", read_only=True)
    if with_state.latest is not None:
        restored = with_state.restore(with_state.latest, experiment.shapes)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(restored.params))
    with_state.close()


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """The loss of a step is of the weights before it: what the step made of them may be worse."""
    experiment = make(run__checkpoint_every_steps=1, train__steps=3)
    fetch, fetched = training.Together.fetch, []

    def broken_at_the_second(together, state):
        (found,) = fetch(together, state)
        fetched.append(found)
        if len(fetched) == 2:
            found.params["head"]["bias"] = np.full_like(found.params["head"]["bias"], np.inf)
        return [found]

    monkeypatch.setattr(training.Together, "fetch", broken_at_the_second)
    said = r"the weights after step 2 \(seed 0\) are not finite; .*checkpoints/1\. Lower"
    with pytest.raises(training.DivergedError, match=said):
        training.train(experiment, tmp_path)
    kept = training.Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert kept.steps == [1]
    kept.close()


def test_each_draw_is_traced_once(tmp_path, monkeypatch):
    experiment = make(run__compile="ahead", train__steps=4)
    draws = {experiment.draw(step) for step in range(4)}
    assert len(draws) == 2
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(step_lib.train_step, n=len(draws))
    monkeypatch.setattr(step_lib, "train_step", counted)
    training.train(experiment, tmp_path)
    # The counter has reached its bound.
    with pytest.raises(AssertionError, match="is traced > 2 times"):
        training.train(make(run__compile="ahead", train__steps=2), tmp_path / "again")


def test_skipped_blocks_stay_as_they_were_through_a_run(tmp_path):
    experiment = make(policy__name="listed", policy__probabilities=(0.0, 1.0, 0.0))
    before = jax.tree.map(np.asarray, experiment.init())
    after = data.unreplicate(training.train(experiment, tmp_path))
    for name in ("params", "batch_stats", "opt_state"):
        assert_same(getattr(before, name)["stage2_block01"], getattr(after, name)["stage2_block01"])
    assert np.any(
        before.params["stage1_block01"]["conv1"]["kernel"]
        != after.params["stage1_block01"]["conv1"]["kernel"]
    )


def test_best_checkpoint_is_read_back_as_a_run(tmp_path, unbroken):
    errors = iter([0.1, 0.4])
    every = 3 / make().steps_per_epoch
    experiment = make(run__eval_every_epochs=every)
    training.claim_workdir(tmp_path, experiment, write=True)
    training.train(experiment, tmp_path, evaluate=lambda _: {"error": next(errors)})
    best, latest = (training.load_run(tmp_path, which) for which in ("best", "latest"))
    assert (best.step, latest.step) == (3, 6)
    assert_same(latest.variables["params"], unbroken[0].params)
    assert latest.model.stage_sizes == (1, 1)
    assert latest.description["input"]["shape"] == [8, 8, 1]
    assert len(latest.ladder) == 3


def test_changed_config_over_an_old_workdir_names_each_field(tmp_path):
    training.claim_workdir(tmp_path, make(), write=True)
    training.claim_workdir(tmp_path, make(run__log_every_steps=5), write=True)
    with pytest.raises(ValueError, match=r"config\.optimizer\.learning_rate: 0\.02 -> 0\.5"):
        training.claim_workdir(tmp_path, make(optimizer__learning_rate=0.5), write=True)


def test_batch_that_devices_do_not_divide_names_the_nearest():
    with pytest.raises(ValueError, match="124 is not divisible by 8 devices; nearest: 120, 128"):
        training.make_experiment(small_config(train__batch_size=124), 8)


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match=r"sum to 0\.9, not to 1"):
        make(policy__name="listed", policy__probabilities=(0.2, 0.2, 0.5))
    with pytest.raises(ValueError, match="has 2 entries; the ladder of scheme 'coml' has 3"):
        make(policy__name="listed", policy__probabilities=(0.5, 0.5))


def test_learning_rate_is_the_papers():
    config = config_lib.default_config()
    config.data.name, config.model.arguments.stage_sizes = "digits", (1, 1, 1)
    experiment = training.make_experiment(config)
    per_epoch = experiment.steps_per_epoch
    rates = [
        float(experiment.learning_rate(epoch * per_epoch + shift))
        for epoch, shift in ((0, 0), (82, -1), (82, 0), (123, -1), (123, 0))
    ]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "train", "loss": 1.0}) for step in (2, 4, 6)]
    path.write_text("\n".join(lines) + '\n{"step": 8, "spl')
    writer = MetricWriter(tmp_path, 4)
    writer.write(5, "train", {"loss": 0.5})
    writer.close()
    assert [record["step"] for record in training.read_metrics(path)] == [2, 4, 5]
