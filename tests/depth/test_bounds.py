"""Bounds that must hold: against SciPy, by simulation, and by their definitions."""

import math

import numpy as np
import pytest
import scipy.stats

from accordion_jax.depth.bounds import (
    clopper_pearson_upper,
    prediction_rank,
    risk_of,
    tolerance_rank,
    upper_band,
)
from tests.delivery.toys import make_table


@pytest.mark.parametrize("examples", [1, 2, 7, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.05 / 200, 1e-9])
def test_the_bound_is_clopper_and_pearsons(examples, alpha):
    drawn = np.random.default_rng(0).integers(0, examples + 1, 50)
    errors = np.unique([0, examples - 1, examples, *drawn])
    upper = clopper_pearson_upper(errors, examples, alpha)
    some = errors[:-1]
    expected = scipy.stats.beta.isf(alpha, some + 1, examples - some)
    np.testing.assert_allclose(upper[:-1], expected, rtol=1e-9)
    assert upper[-1] == 1
    assert np.all(upper[:-1] > some / examples)
    assert np.all(np.diff(upper) > 0) or examples == 10**6


def test_no_errors_have_the_bound_in_closed_form():
    examples = np.array([1, 10, 1000])
    expected = 1 - 0.05 ** (1 / examples)
    np.testing.assert_allclose(clopper_pearson_upper([0, 0, 0], examples, 0.05), expected)


def test_rows_of_different_examples_are_each_by_their_own():
    both = clopper_pearson_upper([3, 30], [100, 1000], 0.01)
    alone = [clopper_pearson_upper(3, 100, 0.01)[0], clopper_pearson_upper(30, 1000, 0.01)[0]]
    np.testing.assert_allclose(both, alone, rtol=1e-12)
    assert both[0] > both[1]


@pytest.mark.parametrize(
    ("errors", "examples", "alpha", "message"),
    [
        (1, 10, 0.0, "alpha=0.0 must be above 0"),
        (1, 10, 0.6, "alpha=0.6"),
        (11, 10, 0.1, r"errors=\[11\.\] of examples=\[10\.\]"),
        (-1, 10, 0.1, r"errors=\[-1\.\]"),
        (0, 0, 0.1, r"examples=\[0\.\]"),
    ],
)
def test_what_is_no_count_is_refused(errors, examples, alpha, message):
    with pytest.raises(ValueError, match=message):
        clopper_pearson_upper(errors, examples, alpha)


def test_the_band_covers_all_rows_at_once_and_is_not_needlessly_wide():
    # Rows depend on each other as those of a ladder do: they answer the same images.
    rng = np.random.default_rng(1)
    rates, examples, trials, risk = np.array([0.6, 0.4, 0.2, 0.1, 0.08]), 200, 2000, 0.1
    difficulty = rng.random((trials, examples, 1))
    noise = rng.random((trials, examples, len(rates)))
    wrong = np.where(rng.random((trials, examples, 1)) < 0.7, difficulty, noise) < rates
    counts = wrong.sum(1)
    every_count = np.arange(examples + 1)
    band = clopper_pearson_upper(every_count, examples, risk / len(rates))[counts]
    np.testing.assert_allclose(band[0], upper_band(counts[0], examples, risk), rtol=1e-9)
    covered = (band >= rates).all(1).mean()
    one_row = (np.array([clopper_pearson_upper(r, examples, risk) for r in counts]) >= rates).all(1)
    assert covered >= 1 - risk
    assert one_row.mean() < 1 - risk, "without Bonferroni it would not hold"
    # Narrower than the distribution-free bounds that one might write down in its place.
    hoeffding = counts / examples + math.sqrt(math.log(len(rates) / risk) / (2 * examples))
    assert (band < hoeffding).all()
    assert (band - counts / examples).mean() < 0.75 * (hoeffding - counts / examples).mean()


def test_a_confidence_is_rounded_to_the_safe_side():
    assert [risk_of(c) for c in (0.9, 0.95, 0.99, 0.999, 0.5)] == [0.1, 0.05, 0.01, 0.001, 0.5]
    assert risk_of(0.9512) == 0.048
    grid = {risk_of(c) for c in np.linspace(0.5, 0.99, 5000)}
    assert len(grid) <= 131
    for confidence in (0.51234, 0.9876543, 1 - 1e-11):
        assert 0 < risk_of(confidence) <= 1 - confidence + 1e-15
    for wrong in (95, 0.3, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"must be a probability of at least 0\.5"):
            risk_of(wrong)


def test_a_table_keeps_the_bands_that_it_was_asked_for():
    table = make_table(["a", "b"], [10, 20], [0.5, 0.2])
    bounds = table.upper_bounds(0.95)
    np.testing.assert_allclose(bounds, upper_band([500, 200], 1000, 0.05))
    assert table.upper_bounds(0.95) is bounds
    assert table.upper_bounds(0.99) > bounds


@pytest.mark.parametrize("count", [1, 5, 28, 29, 45, 200])
@pytest.mark.parametrize("content", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("risk", [0.5, 0.05, 0.001])
def test_the_rank_of_a_tolerance_bound_is_the_largest_that_holds(count, content, risk):
    rank = tolerance_rank(count, content, risk)
    binomial = scipy.stats.binom(count, 1 - content)
    assert binomial.cdf(rank - 1) <= risk * (1 + 1e-9)
    assert rank == count or binomial.cdf(rank) > risk * (1 - 1e-9)


def test_ninety_per_cent_of_links_take_twenty_nine_traces():
    assert [tolerance_rank(count, 0.9, 0.05) for count in (28, 29)] == [0, 1]


def test_the_next_value_reaches_the_rank_as_often_as_it_says():
    rng = np.random.default_rng(2)
    count, risk, trials = 29, 0.1, 20_000
    rank = prediction_rank(count, risk)
    assert rank == 3
    values = rng.integers(0, 40, (trials, count + 1))  # with ties
    bound = np.sort(values[:, :-1], axis=1)[:, rank - 1]
    assert (values[:, -1] >= bound).mean() >= 1 - risk - 0.005
    smooth = rng.random((trials, count + 1))
    bound = np.sort(smooth[:, :-1], axis=1)[:, rank - 1]
    assert (smooth[:, -1] >= bound).mean() == pytest.approx(1 - risk, abs=0.01)
    assert [prediction_rank(19, 0.1), prediction_rank(8, 0.1), prediction_rank(9, 0.1)] == [2, 0, 1]
