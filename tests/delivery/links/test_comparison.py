"""Who is ahead, when, by how much and why."""

import numpy as np
import pytest

from accordion_jax.delivery.links.comparison import as_rows, behind, leaders, lines_of, why
from accordion_jax.delivery.links.replay import Method, log_times, replay, whole
from accordion_jax.delivery.links.traces import constant

TIMES = log_times(10.0)
OURS = Method("ours", (1000, 8000), (0.5, 0.2))
LINKS = [constant(rate_bps=8e3)]  # a thousand bytes a second


def compare(*rivals, slack=1.0, tolerance=0.003):
    ask = {"chance_error": 0.9, "starts": 3, "seed": 0}
    (late,) = replay([OURS], LINKS, slack * TIMES, **ask)
    return behind(late, replay(rivals, LINKS, TIMES, **ask), TIMES, tolerance=tolerance)


def test_a_rival_with_less_error_in_fewer_bytes_is_ahead_until_ours_catches_up():
    found = compare(whole("better", 4000, 0.3))
    assert [each.statistic for each in found] == ["mean", "median", "worst tenth"]
    for each in found:
        assert each.rival == "better"
        assert each.by == pytest.approx(0.2)
        assert (each.error, each.rival_error) == pytest.approx((0.5, 0.3))
        assert 4.0 <= each.first_s < 4.2
        assert 7.6 < each.last_s < 8.0
    rows = as_rows({0.1: found})
    assert rows[0]["round_trip_s"] == 0.1
    assert rows[0]["rival"] == "better"


def test_a_rival_with_more_error_or_more_bytes_is_not():
    assert not compare(whole("large", 9000, 0.2), whole("poor", 1500, 0.6), OURS)


def test_what_is_within_the_tolerance_does_not_count():
    rival = whole("rival", 2000, 0.498)
    assert not compare(rival)
    assert compare(rival, tolerance=0.001)


def test_slack_is_time_that_ours_may_take_longer():
    rival = whole("rival", 7700, 0.2)
    assert compare(rival)
    assert not compare(rival, slack=1.05)


def test_the_reason_is_in_bytes_and_errors():
    assert why(OURS, whole("better", 4000, 0.3), 0.003) == (
        "4.0 kB with 30.0 %, where ours has 50.0 % within 1.05 of the bytes"
    )
    assert "ours has nothing" in why(OURS, whole("tiny", 10, 0.7), 0.003)
    assert why(OURS, whole("large", 9000, 0.2), 0.003) == ""


def test_leaders_are_those_that_are_best_at_some_moment():
    rivals = [
        whole("early", 2000, 0.5),
        whole("beaten", 5000, 0.5),
        whole("late", 8000, 0.1),
        whole("never there", 10**9, 0.0),
    ]
    curves = replay(rivals, LINKS, TIMES, chance_error=0.9, starts=3, seed=0)
    assert [curve.method.name for curve in leaders(curves)] == ["early", "late"]
    np.testing.assert_array_equal(lines_of(curves[0])["mean"], curves[0].mean)
