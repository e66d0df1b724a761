"""Own heads that are fitted to what a network finds."""

import jax
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.training import heads
from tests.training.test_loop import assert_same, make

OWN = {"model__arguments__own_heads": True}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with own heads: its workdir, and what it trained."""
    workdir = tmp_path_factory.mktemp("begun")
    experiment = make(train__steps=3, **OWN)
    training.claim_workdir(workdir, experiment, write=True)
    training.train(experiment, workdir)
    return workdir, training.load_run(workdir)


def fitted_run(workdir, **fields):
    return make(train__start_from=str(workdir), train__fit_heads=True, **OWN, **fields)


def losses(experiment, params, batch_stats):
    """The loss of each configuration on training images as they are, by the batch's statistics."""
    outputs, _ = experiment.model.apply(
        {"params": params, "batch_stats": batch_stats},
        experiment.task.prepare(experiment.train.inputs[:512]),
        skip_masks=experiment.ladder.skip_masks,
        train=True,
        mutable=["batch_stats"],
        method="truncations",
    )
    targets = experiment.train.targets[:512]
    return [float(experiment.task.loss(each, targets).mean()) for each in outputs]


def test_each_head_but_the_last_suits_its_features_better(begun):
    workdir, run = begun
    experiment = fitted_run(workdir)
    state = experiment.init()
    before = losses(experiment, run.variables["params"], run.variables["batch_stats"])
    after = losses(experiment, state.params, state.batch_stats)
    *smaller, full = zip(before, after, strict=True)
    assert all(new < 0.9 * old for old, new in smaller)
    assert full[0] == full[1]
    # Nothing but heads has changed, and the same seed gives the same ones.
    for unit, tree in state.params.items():
        rest = {name: each for name, each in tree.items() if name not in ("head", "kernel", "bias")}
        assert_same(rest, {name: run.variables["params"][unit][name] for name in rest})
    assert_same(state.params, fitted_run(workdir).init().params)
    other = fitted_run(workdir, seed=7).init().params
    assert not np.array_equal(other["head"]["kernel"], state.params["head"]["kernel"])


def test_no_fit_is_better_by_much():
    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(size=(400, 8))).astype(np.float32)
    features[:, 5] = 0  # a channel that is still
    targets = rng.integers(0, 10, 400)
    head = {"kernel": rng.normal(size=(8, 10)).astype(np.float32), "bias": np.zeros(10, np.float32)}
    found = heads._fitted(head, np.pad(features, ((0, 0), (0, 3))), targets)
    spread = features.std(0)[:, None] + 1e-6

    def loss(scaled, bias):
        logits = features / spread.T @ scaled + bias
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -log[np.arange(400), targets].mean() + heads._DECAY * np.square(scaled).sum()

    scaled, bias = (np.asarray(x, np.float64) for x in (found["kernel"] * spread, found["bias"]))
    best = loss(scaled, bias)
    for _ in range(20):
        step = rng.normal(size=scaled.shape) * 0.05
        assert loss(scaled + step, bias) > best - 1e-4
    assert np.isfinite(found["kernel"]).all()


def test_a_run_of_no_steps_keeps_the_fitted_heads(begun, tmp_path):
    workdir, _ = begun
    experiment = fitted_run(workdir, train__steps=0, train__epochs=0.0)
    training.claim_workdir(tmp_path, experiment, write=True)
    state = data.unreplicate(training.train(experiment, tmp_path))
    assert_same(state.params, experiment.init().params)
    assert_same(training.load_run(tmp_path).variables["params"], jax.device_get(state.params))


@pytest.mark.tries("fits heads to what a trained network finds")
def test_without_a_trained_network_it_is_refused(begun):
    with pytest.raises(ValueError, match=r"config\.train\.fit_heads=True fits heads .*start_from"):
        make(train__fit_heads=True, **OWN)
    make(train__fit_heads=True, train__start_from=str(begun[0]), **OWN).init()


@pytest.mark.tries("wants a network whose blocks hold heads of their own")
def test_one_head_for_all_depths_is_refused(tmp_path):
    before = make(train__steps=0, train__epochs=0.0)
    training.claim_workdir(tmp_path, before, write=True)
    training.train(before, tmp_path)
    with pytest.raises(ValueError, match="own_heads=True, or fit_heads to False"):
        make(train__start_from=str(tmp_path), train__fit_heads=True).init()
    make(train__start_from=str(tmp_path), train__fit_heads=False).init()
    fitted_run(tmp_path).init()


@pytest.mark.tries("fits a head to one input, and scheme")
def test_a_head_of_several_inputs_is_refused(tmp_path):
    sizes = {"model__arguments__stage_sizes": (2, 2)}
    before = make(train__steps=0, train__epochs=0.0, **OWN, **sizes)
    training.claim_workdir(tmp_path, before, write=True)
    training.train(before, tmp_path)
    with pytest.raises(ValueError, match="scheme 'blockcoml' gives some several; use scheme"):
        fitted_run(tmp_path, scheme="blockcoml", **sizes).init()
    fitted_run(tmp_path, scheme="coml", **sizes).init()
    start = {"train__start_from": str(tmp_path), "train__fit_heads": False}
    make(scheme="blockcoml", **start, **OWN, **sizes).init()
