"""Runs that begin with the weights of another."""

import shutil

import jax
import numpy as np
import pytest

from accordion_jax import data, training
from tests.training.test_loop import assert_same, make


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A trained run: its workdir, and its last state."""
    workdir = tmp_path_factory.mktemp("before")
    experiment = make(train__steps=3)
    training.claim_workdir(workdir, experiment, write=True)
    return workdir, data.unreplicate(training.train(experiment, workdir))


def test_a_run_begins_with_the_weights_of_another(before, tmp_path):
    workdir, last = before
    experiment = make(train__start_from=str(workdir), seed=5, scheme="resnet")
    state = experiment.init()
    assert_same((state.params, state.batch_stats), (last.params, last.batch_stats))
    assert state.step == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state)), "momentum of before"
    assert jax.tree.structure(state) == jax.tree.structure(make().init())


def test_it_goes_on_without_the_run_that_it_began_with(before, tmp_path):
    workdir, _ = before
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    started = make(train__start_from=str(copy), train__steps=3)
    training.claim_workdir(tmp_path / "run", started, write=True)
    training.train(started, tmp_path / "run")
    shutil.rmtree(copy)
    longer = make(train__start_from=str(copy), train__steps=6)
    assert int(data.unreplicate(training.train(longer, tmp_path / "run").step)) == 6
    with pytest.raises(ValueError, match=r"config\.train\.start_from: .* -> ''"):
        training.claim_workdir(tmp_path / "run", make(train__steps=3), write=True)


@pytest.mark.tries("is of another network")
def test_another_network_is_refused(before):
    workdir, _ = before
    for field, value, said in (
        ("model__arguments__channels", (4, 16), r"\S+/mean is \(8,\), and \(16,\) here"),
        ("model__arguments__stage_sizes", (2, 1), r"block02/\S+ is not in it, and \(4,\) here"),
    ):
        other = make(train__start_from=str(workdir), **{field: value})
        with pytest.raises(ValueError, match=said):
            other.init()
    # As it says: with the values of the run's own config.
    make(train__start_from=str(workdir), model__arguments__channels=(4, 8)).init()


def test_a_network_with_own_heads_begins_with_one_of_a_shared_head(before, tmp_path):
    workdir, last = before
    experiment = make(train__start_from=str(workdir), model__arguments__own_heads=True)
    state = experiment.init()
    for unit in experiment.model.block_names:
        head = state.params[unit]["head"]
        channels = head["kernel"].shape[0]
        np.testing.assert_array_equal(head["kernel"], last.params["head"]["kernel"][:channels])
        np.testing.assert_array_equal(head["bias"], last.params["head"]["bias"])
    assert jax.tree.structure(state) == jax.tree.structure(
        make(model__arguments__own_heads=True).init()
    )
    training.claim_workdir(tmp_path, experiment, write=True)
    trained = data.unreplicate(training.train(experiment, tmp_path))
    moved = [
        np.any(trained.params[unit]["head"]["bias"] != state.params[unit]["head"]["bias"])
        for unit in experiment.model.block_names
    ]
    assert all(moved)
    assert_same(training.load_run(tmp_path).variables["params"], trained.params)


def test_a_run_of_no_steps_is_what_it_begins_with(before, tmp_path):
    workdir, last = before
    experiment = make(train__start_from=str(workdir), train__steps=0, train__epochs=0.0)
    training.claim_workdir(tmp_path, experiment, write=True)
    for _ in range(2):
        state = data.unreplicate(training.train(experiment, tmp_path))
        assert_same((state.params, state.batch_stats), (last.params, last.batch_stats))
    run = training.load_run(tmp_path)
    assert run.step == 0
    assert_same(run.variables["params"], last.params)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        make(train__start_from=str(tmp_path)).init()
