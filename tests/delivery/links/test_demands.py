"""What it takes to meet demands, against closed forms and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.links.demands import markdown, meet, unmet
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.replay import Method
from accordion_jax.delivery.links.traces import Trace, constant
from accordion_jax.depth.fitting import Demand, smallest_that_satisfies
from tests.delivery.toys import make_table

SIZES = (1000, 20_000, 60_000)
METHOD = Method("m", SIZES, (0.6, 0.3, 0.2), round_trips=2)
ERRORS = st.lists(st.floats(0, 1), min_size=3, max_size=3)
DEMANDED = st.dictionaries(st.floats(0, 1), st.floats(0.01, 10), min_size=1, max_size=5)


@given(ERRORS, DEMANDED)
def test_what_is_sent_is_what_a_policy_of_the_same_demands_would_train(errors, demanded):
    table = make_table(["s", "m", "l"], list(SIZES), errors)
    errors = tuple(each.top1_error for each in table.rows)
    (row,) = meet({"m": [Method("m", SIZES, errors)]}, demanded)
    found = smallest_that_satisfies(table, {Demand(max_error=e): w for e, w in demanded.items()})
    assert row["bytes"]["value"] == pytest.approx(found.probabilities @ np.array(SIZES))
    assert row["error"]["value"] == pytest.approx(found.probabilities @ np.array(errors))
    assert row["unmet"]["value"] == pytest.approx(found.unreached)


@given(ERRORS, DEMANDED, st.integers(0, 20))
def test_demands_that_are_not_met_in_time_are_those_of_brute_force(errors, demanded, seed):
    rng = np.random.default_rng(seed)
    times = np.concatenate([[0], np.cumsum(rng.uniform(0.05, 1, 12))])
    rates = rng.choice([0, 1e5, 1e6, 5e6], 12)
    link = Link(Trace("t", tuple(times[:-1]), tuple(rates), float(times[-1])))
    method = Method("m", SIZES, tuple(errors), round_trips=2)
    (found,) = unmet([link], method, {0.3: 1.0}, demanded=demanded, round_trip_s=0.03)
    starts = (np.arange(4000) + 0.5) / 4000 * link.trace.end_s
    missed = 0.0
    for max_error, share in demanded.items():
        sizes = [s for s, e in zip(SIZES, errors, strict=True) if e <= max_error]
        late = (link.transfer_time(starts, sizes[0]) > 0.24).mean() if sizes else 1.0
        missed += share * late / sum(demanded.values())
    assert found == pytest.approx(missed, abs=5e-3)


def test_several_deadlines_are_a_distribution():
    link = Link(constant(rate_bps=8e6))  # a megabyte a second, after 0.06 s
    demanded = {0.3: 1.0, 0.2: 2.0, 0.1: 1.0}
    found = unmet(
        [link, link], METHOD, {0.085: 0.5, 0.125: 0.5}, demanded=demanded, round_trip_s=0.03
    )
    # 20 kB by both, 60 kB by the second, and an error of 0.1 never.
    np.testing.assert_allclose(found, [1 / 4 + 1 / 2 * 1 / 2] * 2)


def test_seeds_are_paired_and_the_largest_is_sent_in_vain():
    better = [Method("b", SIZES, (0.3, 0.25, 0.2)), Method("b", SIZES, (0.5, 0.3, 0.25))]
    groups = {"a": [METHOD, METHOD], "b": better, "c": better[:1]}
    rows = meet(groups, {0.3: 1.0, 0.2: 1.0}, "a")
    assert [row["unmet"]["by_seed"] for row in rows] == [[0, 0], [0, 0.5], [0]]
    assert [row["bytes"]["by_seed"] for row in rows] == [[40_000] * 2, [30_500, 40_000], [30_500]]
    assert rows[0]["difference"] is None
    assert rows[1]["difference"]["by_seed"] == [-9500, 0]
    assert rows[2]["difference"]["deviation"] is None
    text = markdown(rows, "top-1 error", "a")
    assert "| b | 2 | 10.5 | 60.0 (1 of 2 meet it) | 35.2 ± 6.7; -4.8 ± 6.7 | 26.25 " in text
    assert text.endswith("after the mean its difference from a.")


def test_demands_of_no_share_are_refused():
    with pytest.raises(ValueError, match="no demands with a share above 0"):
        meet({"a": [METHOD]}, {0.3: 0.0})
