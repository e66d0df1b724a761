"""Early exits: what thresholds cost and bring, and how they are chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compositions.early_exit import (
    Answers,
    _best_threshold,
    at_budget,
    at_error,
    calibrate,
    measure,
)

MACS = [100, 200, 400]
HEAD = 10


def answers_of(seed=0, examples=400):
    """Each read-out is right more often than the one before, and surer where it is right."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 5, examples)
    outputs = rng.normal(size=(3, examples, 5))
    hard = rng.random(examples)
    for i, skill in enumerate((0.4, 0.7, 0.9)):
        right = hard < skill
        outputs[i, np.arange(examples)[right], targets[right]] += rng.uniform(2, 8, right.sum())
    return Answers.of(outputs.astype(np.float32), targets)


def test_confidence_is_the_largest_probability():
    answers = Answers.of(np.log(np.array([[[0.7, 0.2, 0.1]]], np.float32)), np.array([1]))
    assert answers.confidence[0, 0] == pytest.approx(0.7)
    assert answers.wrong[0, 0]


def test_thresholds_at_the_ends_are_one_depth_for_all():
    answers = answers_of()
    never = measure(answers, [np.inf, np.inf, 0], MACS, HEAD)
    assert never.error == answers.wrong[2].mean()
    assert never.mean_macs == 400
    first = measure(answers, [0, 0, 0], MACS, HEAD)
    assert first.error == answers.wrong[0].mean()
    assert first.mean_macs == 100


@given(st.floats(0, 1), st.floats(0, 1))
def test_cost_and_error_are_those_of_the_exits_taken(one, two):
    answers = answers_of()
    found = measure(answers, [one, two, 0], MACS, HEAD)
    cost, wrong = 0, 0
    for example in range(answers.wrong.shape[1]):
        taken = next(
            i for i, limit in enumerate((one, two, 0)) if answers.confidence[i, example] >= limit
        )
        cost += MACS[taken] + HEAD * taken  # a read-out for each exit that it passed
        wrong += answers.wrong[taken, example]
    assert found.mean_macs == pytest.approx(cost / answers.wrong.shape[1])
    assert found.error == wrong / answers.wrong.shape[1]


def test_an_exit_that_is_never_taken_costs_no_read_out():
    answers = answers_of()
    found = measure(answers, [np.inf, 2.0, 0], MACS, HEAD)
    assert found.mean_macs == 400 + HEAD


def test_calibration_is_better_than_one_depth_for_all_and_orders_its_finds():
    answers = answers_of()
    found = calibrate(answers, MACS, HEAD)
    costs = [each.mean_macs for each in found]
    errors = [each.error for each in found]
    assert costs == sorted(costs)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= answers.wrong[-1].mean()
    # Somewhere an early exit has the error of the middle depth for less.
    assert at_error(found, answers.wrong[1].mean()).mean_macs < MACS[1]


def test_choices_keep_to_their_bounds():
    found = calibrate(answers_of(), MACS, HEAD)
    for budget in (100, 150, 200, 300, 400):
        chosen = at_budget(found, budget)
        assert chosen.mean_macs <= budget
        assert all(each.error >= chosen.error for each in found if each.mean_macs <= budget)
    assert at_budget(found, 1) is None
    assert at_error(found, -1.0) is None


@given(seed=st.integers(0, 20), price=st.floats(0, 2), second=st.sampled_from([np.inf, 0.5, 0.9]))
def test_a_threshold_is_the_best_that_there_is(seed, price, second):
    answers = answers_of(seed, examples=40)
    limits = np.array([np.inf, second, 0])

    def total(limit):
        limits[0] = limit
        found = measure(answers, limits, MACS, HEAD)
        return found.error + price * found.mean_macs / MACS[-1]

    chosen = _best_threshold(answers, limits.copy(), 0, MACS, HEAD, price)
    least = min(map(total, [np.inf, *answers.confidence[0]]))
    assert total(chosen) == pytest.approx(least, abs=1e-12)
