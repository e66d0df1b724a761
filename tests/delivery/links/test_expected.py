"""What arrives over all starts of a trace, and the expected error that follows."""

import os
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.links.charts import draw_over_links, draw_policies
from accordion_jax.delivery.links.expected import (
    arrivals,
    bootstrap_mean,
    compare,
    expected_errors,
    markdown,
)
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.models import parse_model
from accordion_jax.delivery.links.replay import Method, log_times, replay
from accordion_jax.delivery.links.traces import Trace, constant, find_traces, read_trace
from accordion_jax.depth.policy_file import Entry

METHOD = Method("m", (1000, 20_000, 60_000), (0.6, 0.3, 0.2), round_trips=2)
ERROR = partial(expected_errors, chance_error=0.9)


def random_trace(seed, count=20):
    rng = np.random.default_rng(seed)
    times = np.concatenate([[0], np.cumsum(rng.uniform(0.05, 1, count))])
    rates = rng.choice([0, 0, 1e5, 1e6, 5e6], count)
    return Trace(str(seed), tuple(times[:-1]), tuple(rates), float(times[-1]))


def test_on_a_constant_link_all_starts_are_alike():
    link = Link(constant(rate_bps=8e6))
    np.testing.assert_array_equal(link.arrival([0, 99_999, 1e5, 100_001], 0.1), [1, 1, 1, 0])
    np.testing.assert_array_equal(link.arrival([0, 1], 0.0), [1, 0])


@given(st.integers(0, 50), st.sampled_from([0.01, 0.3, 2.0, 30.0]))
def test_the_shares_of_starts_are_those_of_brute_force(seed, window_s):
    link = Link(random_trace(seed))
    sizes = np.array([1, 1000, 20_000, 300_000, 5e6])
    starts = (np.arange(20_000) + 0.5) / 20_000 * link.trace.end_s
    brute = [(link.transfer_time(starts, size) <= window_s).mean() for size in sizes]
    np.testing.assert_allclose(link.arrival(sizes, window_s), brute, atol=2e-3)


def test_an_outage_counts_and_the_mean_rate_does_not():
    # Half of the time 2 Mbit/s, else nothing: 1 Mbit/s in the mean, as the second link always has.
    halves = Link(Trace("halves", (0.0, 10.0), (2e6, 0.0), 20.0))
    always = Link(constant(rate_bps=1e6))
    size = [100_000]  # 0.8 s at the mean rate
    assert always.arrival(size, 1.0)[0] == 1
    # Starts at which 0.4 s of the next second are on: from 0.6 s before it begins, to 0.4 before
    # it ends.
    assert halves.arrival(size, 1.0)[0] == pytest.approx((10 + 0.6 - 0.4) / 20)


def test_a_trace_that_ends_is_refused():
    with pytest.raises(ValueError, match="use loop=True"):
        Link(constant(rate_bps=1.0), loop=False).arrival([1], 1.0)


def test_deadlines_are_a_distribution_and_round_trips_are_charged():
    link = Link(constant(rate_bps=8e6))  # a megabyte a second
    found = arrivals([link], [10_000, 100_000], {0.05: 0.25, 0.15: 0.75}, wait_s=0.045)
    np.testing.assert_allclose(found, [[0.75, 0.75]])
    found = arrivals([link], [10_000, 100_000], {0.05: 0.25, 0.15: 0.75}, wait_s=0.0)
    np.testing.assert_allclose(found, [[1.0, 0.75]])


def test_the_expected_error_is_that_of_a_replay():
    traces = [random_trace(seed, 40) for seed in range(4)]
    times = log_times(2.0, 8)
    (curve,) = replay(
        [METHOD], traces, times, chance_error=0.9, starts=4000, seed=0, round_trip_s=0.01
    )
    links = [Link(trace) for trace in traces]
    for time_s, mean in zip(times, curve.mean, strict=True):
        exact = expected_errors(
            links, METHOD, {float(time_s): 1.0}, chance_error=0.9, round_trip_s=0.01
        )
        assert exact.shape == (4,)
        assert exact.mean() == pytest.approx(mean, abs=0.01)


def test_a_larger_model_that_errs_more_is_not_sent():
    link = Link(constant(rate_bps=8e6))
    method = Method("m", (1000, 2000, 3000), (0.95, 0.3, 0.5))
    for size_s, error in ((0.0005, 0.9), (0.0011, 0.9), (0.0021, 0.3), (0.0031, 0.3)):
        found = expected_errors([link], method, {size_s: 1.0}, chance_error=0.9)
        assert found[0] == pytest.approx(error)


def test_models_and_traces_go_the_same_way():
    found = expected_errors(
        [parse_model("onoff:rate_bps=8e6,on_s=1,off_s=1")], METHOD, {0.01: 1.0}, chance_error=0.9
    )
    assert 0.6 < found[0] < 0.9


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        values = rng.beta(2, 3, (1, 40))
        mean = bootstrap_mean(values, draws=400, seed=trial)
        covered += mean.low <= 0.4 <= mean.high
        assert mean.deviation is None
    assert 0.9 <= covered / 300 <= 0.99


def test_policies_are_compared_paired_by_link():
    links = [Link(random_trace(seed)) for seed in range(12)]
    better = Method("b", METHOD.sizes_bytes, (0.59, 0.29, 0.19), round_trips=2)
    rows = compare(
        {"a": [METHOD, METHOD], "b": [better]},
        links,
        [0.1, 1.0],
        partial(expected_errors, chance_error=0.9, round_trip_s=0.01),
        round_trip_s=0.01,
        reference="a",
    )
    assert [(row["label"], row["deadline_s"]) for row in rows] == [
        *(("a", 0.1), ("b", 0.1), ("a", 1.0), ("b", 1.0))
    ]
    a, b = rows[2:]
    assert (a["seeds"], a["deviation"], a["difference"]) == (2, 0.0, None)
    assert b["difference"]["value"] == pytest.approx(b["value"] - a["value"])
    # The links differ much, and the difference between the policies little: it is paired.
    assert b["difference"]["high"] < 0 < b["high"] - b["low"]
    assert b["difference"]["high"] - b["difference"]["low"] < 0.1 * (b["high"] - b["low"])
    text = markdown(rows, "expected top-1 error", "a")
    assert "| expected top-1 error at the deadline | seeds | 0.1 s | 1 s |" in text
    assert "| a | 2 | " in text
    assert "standard deviation over seeds" in text
    assert "Not even the smallest configuration of a arrives: " in text
    again = [compare({"a": [METHOD]}, links, [0.1], ERROR) for _ in range(2)]
    assert again[0] == again[1]


def test_as_many_seeds_are_paired_one_by_one():
    links = [Link(random_trace(seed)) for seed in range(5)]

    def method(shift):
        errors = tuple(error + shift for error in METHOD.errors)
        return Method("m", METHOD.sizes_bytes, errors, round_trips=2)

    better = {"a": [method(0.0), method(0.1)], "b": [method(-0.02), method(0.08)]}
    measure = partial(expected_errors, chance_error=2.0, round_trip_s=0.01)
    _, row = compare(better, links, [1.0], measure, reference="a")
    # The seeds of each policy differ by far more than the policies do.
    assert row["deviation"] > 0.01
    assert row["difference"]["deviation"] == pytest.approx(0, abs=1e-9)
    assert row["difference"]["by_seed"] == pytest.approx([row["difference"]["value"]] * 2)
    fewer = {"a": better["a"], "b": better["b"][:1]}
    assert (
        compare(fewer, links, [1.0], measure, reference="a")[1]["difference"]["deviation"] is None
    )


def test_the_best_is_chosen_on_other_links_and_tested_on_these():
    # The small model is the better one where links are slow, the large one where they are fast.
    small = Method("small", (1000, 50_000), (0.4, 0.35))
    large = Method("large", (1000, 50_000), (0.6, 0.2))
    slow, fast = (Link(constant(rate_bps=rate)) for rate in (1e6, 8e6))
    groups = {"small": [small], "large": [large, large]}
    for choose_on, test_on, chosen, error in (
        ([slow], [fast], "small", 0.35),
        ([fast], [slow], "large", 0.6),
        ([fast, fast, slow], [fast, fast], "large", 0.2),
    ):
        rows = compare(groups, test_on, [0.1], ERROR, reference="small", choose_on=choose_on)
        best = rows[-1]
        assert [row["chosen"] for row in rows] == [None, None, chosen]
        assert best["label"] == f"best over {len(choose_on)} other links"
        assert best["value"] == pytest.approx(error)
        assert best["seeds"] == len(groups[chosen])
        (alike,) = (row for row in rows[:-1] if row["label"] == chosen)
        assert {**alike, "label": 0, "chosen": 0, "difference": 0} == {
            **best,
            "label": 0,
            "chosen": 0,
            "difference": 0,
        }
        assert best["difference"]["value"] == pytest.approx(error - rows[0]["value"])
        assert f"{best['label']} | {best['seeds']} | {chosen}: " in markdown(rows, "e", "small")


def test_pictures_are_the_same_each_time(tmp_path):
    rows = compare({"a": [METHOD]}, [Link(random_trace(0))], [0.1, 1.0], ERROR)
    entries = [Entry("x", (1,), 1000, 0.3), Entry("y", (2,), 2000, 0.7)]
    for name in ("1.png", "2.png"):
        draw_policies(tmp_path / name, entries, {"p": (0.3, 0.7), "q": (0, 1)}, title="t")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    draw_over_links(tmp_path / "3.png", rows, measured="expected error", title="t")
    both = {"a": [METHOD, METHOD], "b": [METHOD, METHOD]}
    rows = compare(both, [Link(random_trace(0))], [0.1, 1.0], ERROR, reference="a")
    draw_over_links(tmp_path / "4.png", rows, measured="expected error", title="t")
    sizes = {(tmp_path / f"{name}.png").stat().st_size for name in (3, 4)}
    assert len(sizes) == 2
    assert min(sizes) > 5000


def test_measured_traces():
    folder = os.environ.get("ACCORDION_TRACES")
    if not folder:
        pytest.skip("ACCORDION_TRACES names no folder of measured traces")
    rng = np.random.default_rng(0)
    sizes = np.array([4000, 100_000, 1_200_000])
    for path in find_traces(folder)[::6]:
        link = Link(read_trace(path))
        starts = rng.random(20_000) * link.trace.end_s
        brute = (link.transfer_time(starts[:, None], sizes) <= 0.24).mean(0)
        np.testing.assert_allclose(link.arrival(sizes, 0.24), brute, atol=0.015)
