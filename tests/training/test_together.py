"""Several seeds at once: each is the run that it would have been alone."""

import functools
import shutil

import jax
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.training.objective import single
from tests.training.test_loop import DIVERGING, assert_same, small_config

pytestmark = pytest.mark.slow

SEEDS = (3, 0, 1)


def make_runs(seeds=SEEDS, **overrides):
    config = small_config(**({"policy__seed": 0, "train__steps": 4} | overrides))
    config.run.checkpoint_every_steps = 2
    experiment = training.make_experiment(config, jax.device_count())
    return training.Together([experiment.with_seed(seed) for seed in seeds])


def folders(root, seeds=SEEDS):
    return [root / f"seed{seed}" for seed in seeds]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The states of three seeds after four steps at once, and their folder."""
    root = tmp_path_factory.mktemp("together")
    states = training.train_together(
        make_runs(), folders(root), evaluate=lambda variables: {"error": 0.5}
    )
    return [data.unreplicate(state) for state in states], root


def test_each_run_is_close_to_the_run_alone(tmp_path, together):
    alone = data.unreplicate(training.train(make_runs().experiments[2], tmp_path))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, together[0][2], alone)
    other = together[0][1].params["stem"]["conv"]["kernel"]
    assert not np.allclose(other, alone.params["stem"]["conv"]["kernel"], atol=1e-2)
    records = [
        training.read_metrics(folder / "metrics.jsonl")
        for folder in (together[1] / "seed1", tmp_path)
    ]
    for name in ("step", "split", "mean_depth"):
        assert [record[name] for record in records[0]] == [record[name] for record in records[1]]
    for one, other in zip(*records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_skipped_blocks_stay_as_they_were_in_every_run(tmp_path):
    runs = make_runs(policy__name="listed", policy__probabilities=(0.0, 1.0, 0.0))
    before = [jax.tree.map(np.asarray, run.init()) for run in runs.experiments]
    states = training.train_together(runs, folders(tmp_path))
    for initial, state in zip(before, states, strict=True):
        after = data.unreplicate(state)
        for name in ("params", "batch_stats", "opt_state"):
            assert_same(
                getattr(initial, name)["stage2_block01"], getattr(after, name)["stage2_block01"]
            )
        kernels = (each.params["stage1_block01"]["conv1"]["kernel"] for each in (initial, after))
        assert np.any(np.not_equal(*kernels))


def test_goes_on_from_the_newest_step_that_all_have(tmp_path, together):
    shutil.copytree(together[1], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "seed0" / "checkpoints" / "4")  # killed between two saves
    states = training.train_together(make_runs(), folders(tmp_path))
    for state, expected in zip(states, together[0], strict=True):
        assert_same(data.unreplicate(state), expected)


def test_a_run_of_several_can_be_finished_alone(tmp_path, together):
    shutil.copytree(together[1] / "seed3", tmp_path, dirs_exist_ok=True)
    longer = make_runs(train__steps=6).experiments[0]
    state = data.unreplicate(training.train(longer, tmp_path))
    assert int(state.step) == 6
    steps = [record["step"] for record in training.read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [2, 4, 6]


def test_seeds_share_one_program():
    """A seed is an argument of the compiled step, so another seed compiles nothing anew."""
    texts = []
    for seed in (0, 1):
        one = make_runs((seed,))
        run = one.experiment
        mask = run.ladder.full.skip_mask
        state = data.replicate(run.init())
        examples = run.train.rows[:64], run.train.targets[:64]
        inputs = data.replicate((np.arange(64, dtype=np.int32), *examples, one.key))
        texts.append(one.mapped_step(single(mask)).lower(state, *inputs).as_text())
    assert texts[0] == texts[1]


def test_seeds_that_draw_different_depths_are_refused():
    with pytest.raises(ValueError, match=r"seeds \(3, 0, 1\) would draw different .*policy\.seed"):
        make_runs(policy__seed=-1)


def test_a_seed_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"seeds \(2, 2\) must differ"):
        make_runs((2, 2))


def test_a_loss_that_is_not_finite_names_the_seed(tmp_path):
    runs = make_runs((5, 6), **DIVERGING)
    with pytest.raises(training.DivergedError, match=r"step \d .*seed 5\)"):
        training.train_together(runs, folders(tmp_path, (5, 6)))
