"""What a connection's slow start adds: round trips on a fast link, nothing on a slow one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.replay import replay, whole
from accordion_jax.delivery.links.slow_start import INITIAL_WINDOW_BYTES, transfer_time
from accordion_jax.delivery.links.traces import Trace, constant

WINDOW = INITIAL_WINDOW_BYTES


def test_on_a_fast_link_each_window_takes_a_round_trip():
    link = Link(constant(rate_bps=1e15))
    sizes = np.array([0, 1, WINDOW, WINDOW + 1, 3 * WINDOW, 3 * WINDOW + 1, 7 * WINDOW])
    took = transfer_time(link, np.zeros(2), sizes, round_trip_s=0.1)
    np.testing.assert_allclose(took, [[0, 0, 0, 0.1, 0.1, 0.2, 0.2]] * 2, atol=1e-6)


@given(rate=st.floats(1e4, 1e9), size=st.integers(1, 10**6))
def test_on_a_link_that_a_window_fills_it_adds_nothing(rate, size):
    link = Link(constant(rate_bps=rate))
    round_trip_s = 8 * WINDOW / rate  # as long as the first window takes
    took = transfer_time(link, np.zeros(1), np.array([size]), round_trip_s=round_trip_s)
    np.testing.assert_allclose(took, [[8 * size / rate]], rtol=1e-9)


@given(seed=st.integers(0, 99), round_trip_s=st.floats(0, 0.5))
def test_it_is_never_faster_than_the_link_and_more_takes_longer(seed, round_trip_s):
    rng = np.random.default_rng(seed)
    trace = Trace("t", tuple(range(20)), tuple(rng.choice([0, 1e6, 5e7], 20)), 20.0)
    link, starts = Link(trace), rng.uniform(0, 20, 5)
    if not link.mean_bps:
        return
    sizes = np.sort(rng.integers(1, 10**6, 8))
    took = transfer_time(link, starts, sizes, round_trip_s=round_trip_s)
    at_once = link.transfer_time(starts[:, None], sizes)
    assert np.all(took >= at_once - 1e-9)
    assert np.all(np.diff(took, axis=1) >= 0)
    windows = np.ceil(np.log2(sizes / WINDOW + 1)) - 1
    assert np.all(took <= at_once + windows * round_trip_s + 20)  # a wait may meet an outage


def test_a_replay_waits_for_windows_and_headers():
    method = whole("m", 3 * WINDOW, 0.1)
    ask = {"chance_error": 0.9, "starts": 2, "seed": 0, "round_trip_s": 0.1}
    times = np.array([0.15, 0.25, 0.35])
    links = [constant(rate_bps=1e15)]

    def mean(**more):
        (curve,) = replay([method], links, times, **ask, **more)
        return curve.mean

    np.testing.assert_allclose(mean(), [0.1, 0.1, 0.1])
    np.testing.assert_allclose(mean(slow_start=True), [0.9, 0.1, 0.1])
    # One byte more than two windows.
    np.testing.assert_allclose(mean(slow_start=True, header_bytes=1), [0.9, 0.9, 0.1])


def test_headers_are_bytes_of_each_answer():
    method = whole("m", 1000, 0.1)
    (curve,) = replay(
        [method],
        [constant(rate_bps=8e3)],
        np.array([1.0, 1.24, 1.26]),
        chance_error=0.9,
        starts=1,
        seed=0,
        header_bytes=250,
    )
    assert curve.first_s[0] == pytest.approx(1.25)
