"""Weights that follow the losses: where they start, how they rise, and what Hedge's bound says."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.depth import Policy, full_or_uniform, make_ladder
from accordion_jax.training.adaptive import Adaptation, initial
from accordion_jax.training.objective import (
    Draw,
    expected,
    make_objective,
    minimax,
    objective_state,
)
from tests.training.test_loop import assert_same, make

LADDER = make_ladder("coml", (2, 1, 1))
POLICY = full_or_uniform(LADDER, 0.5)


def adaptation(**changes):
    fields = {"rate": 0.1, "floor": 0.0, "references": (0.0,) * 4} | changes
    return Adaptation((1, 2, 3, 4), (0.125, 0.125, 0.25, 0.5), **fields)


def test_the_weights_start_at_the_policy_s():
    found = adaptation().weights(initial(5)["log_weights"])
    np.testing.assert_allclose(found, (0.125, 0.125, 0.25, 0.5), rtol=1e-6)


def test_they_rise_with_the_excess_over_the_references():
    changing = adaptation(references=(1.0, 2.0, 0.5, 0.25))
    losses = jnp.asarray([1.5, 2.0, 1.5, 0.0])
    state = jnp.zeros(5)
    for _ in range(3):
        state = changing.ascend(state, losses)
    wanted = np.array(changing.policy) * np.exp(0.1 * 3 * np.array([0.5, 0.0, 1.0, -0.25]))
    np.testing.assert_allclose(changing.weights(state), wanted / wanted.sum(), rtol=1e-5)
    assert float(state[0]) == 0  # the base is not drawn: nothing of it changes


def test_no_weight_falls_below_its_share_of_the_policy():
    changing = adaptation(floor=0.2)
    state = jnp.zeros(5)
    for _ in range(200):
        state = changing.ascend(state, jnp.asarray([10.0, 0.0, 0.0, 0.0]))
    found = changing.weights(state)
    assert float(jnp.sum(found)) == pytest.approx(1)
    np.testing.assert_allclose(found[1:], 0.2 * np.array(changing.policy[1:]), rtol=1e-4)
    assert np.isfinite(state).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_regret_of_the_weights_is_within_hedge_s_bound(seed):
    # Whatever the losses: here those of an opponent who lowers what has most weight.
    steps, n = 500, 4
    rate = math.sqrt(8 * math.log(n) / steps)
    changing = Adaptation(tuple(range(n)), (1 / n,) * n, (0.0,) * n, rate, 0.0)
    rng = np.random.default_rng(seed)
    ascend, weights = jax.jit(changing.ascend), jax.jit(changing.weights)
    state, played, totals = jnp.zeros(n), 0.0, np.zeros(n)
    for _ in range(steps):
        w = np.asarray(weights(state), np.float64)
        losses = rng.random(n)
        losses[w.argmax()] = 0
        played += float(w @ losses)
        totals += losses
        state = ascend(state, jnp.asarray(losses, jnp.float32))
    regret = totals.max() - played  # they ascend: the best fixed weights are on the largest
    assert regret <= math.log(n) / rate + rate * steps / 8
    assert regret > 0  # an opponent that the weights do not simply beat


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": -0.1}, "rate=-0.1 of the weights must be"),
        ({"rate": math.inf}, "rate=inf of the weights must be"),
        ({"floor": 1.1}, "floor=1.1 must be a share"),
        ({"references": (0.0,) * 3}, "4 configurations have 4 weights and 3 references"),
        ({"references": (0.0, 0.0, 0.0, math.nan)}, "must be finite losses"),
    ],
)
def test_what_cannot_adapt_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        adaptation(**changes)


def test_a_draw_has_as_many_masks_as_weights_that_adapt():
    with pytest.raises(ValueError, match="4 masks adapt; the draw has 1"):
        Draw(((False,) * 4,), (1.0,), adaptation=adaptation())


def test_minimax_is_all_configurations_that_the_policy_draws():
    policy = Policy((0.0, 0.5, 0.0, 0.0, 0.5))
    found = minimax(LADDER, policy, 0, 0, references=(9.0, 1.0, 9.0, 9.0, 2.0))
    plain = expected(LADDER, policy, 0, 0)
    assert (found.skip_masks, found.weights) == (plain.skip_masks, plain.weights)
    assert found.adaptation == Adaptation((1, 4), (0.5, 0.5), (1.0, 2.0), 0.01, 0.1)
    assert objective_state("minimax", LADDER)["log_weights"].shape == (5,)
    assert objective_state("expected", LADDER) == {}
    with pytest.raises(ValueError, match="has 2 entries; the ladder of scheme 'coml' has 5"):
        make_objective("minimax", references=(1.0, 2.0))(LADDER, policy, 0, 0)


MINIMAX = {"objective__name": "minimax", "objective__rate": 0.5}


def test_a_run_s_weights_move_and_go_on_over_a_break(tmp_path):
    experiment = make(**MINIMAX)
    unbroken = data.unreplicate(training.train(experiment, tmp_path / "unbroken"))
    weights = unbroken.objective["log_weights"]
    assert weights.shape == (len(experiment.ladder),)
    assert len(set(weights[1:].tolist())) == 2
    training.train(make(train__steps=3, **MINIMAX), tmp_path / "broken")
    assert_same(data.unreplicate(training.train(experiment, tmp_path / "broken")), unbroken)
    records = training.read_metrics(tmp_path / "unbroken" / "metrics.jsonl")
    assert all(1 <= record["weighted_depth"] <= 2 for record in records)
    assert records[0]["largest_excess"] > 0
    training.claim_workdir(tmp_path / "unbroken", experiment, write=True)
    run = training.load_run(tmp_path / "unbroken")
    assert_same(run.variables["params"], unbroken.params)


def test_at_rate_zero_it_is_the_expected_loss(tmp_path):
    still = training.train(make(objective__name="minimax", objective__rate=0.0), tmp_path / "a")
    plain = training.train(make(objective__name="expected"), tmp_path / "b")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, data.unreplicate(still).params, data.unreplicate(plain).params)
