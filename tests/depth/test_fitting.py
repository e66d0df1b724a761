"""Policies fitted to a link, to demand, and mixtures of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.depth.fitting import (
    Demand,
    best_that_arrives,
    histogram,
    mixture,
    smallest_that_satisfies,
)
from tests.delivery.toys import make_table

TABLE = make_table(["a", "b", "c", "d"], [10, 20, 30, 40], [0.6, 0.3, 0.35, 0.1])


def test_the_largest_that_arrives_is_the_difference_of_two():
    shares, nothing = best_that_arrives([0.8, 0.6, 0.6, 0.2])
    np.testing.assert_allclose(shares, np.array([0.2, 0, 0.4, 0.2]) / 0.8)
    assert nothing == pytest.approx(0.2)
    with pytest.raises(ValueError, match="not even the smallest configuration arrives"):
        best_that_arrives([0.0, 0.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda a: max(a) > 1e-6))
def test_whatever_arrives_gives_a_distribution(arrival):
    shares, nothing = best_that_arrives(sorted(arrival, reverse=True))
    assert math.fsum(shares) == pytest.approx(1)
    assert nothing == pytest.approx(1 - max(arrival))


@pytest.mark.parametrize(
    ("demand", "row"),
    [
        (Demand(max_error=0.7), 0),
        (Demand(max_error=0.3), 1),
        (Demand(max_error=0.33), 1),
        (Demand(max_error=0.2), 3),
        (Demand(max_error=0.05), 3),  # no configuration: the full model
        (Demand(max_error=0.2, max_bytes=30), 2),  # the bound holds, and the error gives way
        (Demand(max_bytes=29), 1),
        (Demand(max_macs=3000), 2),
        (Demand(), 3),
    ],
)
def test_the_smallest_that_satisfies_a_demand(demand, row):
    answered = smallest_that_satisfies(TABLE, {demand: 5})
    np.testing.assert_array_equal(answered.probabilities, np.eye(4)[row])
    assert answered.unreached == (demand.max_error == 0.05)
    assert answered.unserved == 0


def test_demands_that_nothing_meets_are_counted():
    demands = {Demand(max_error=0.3): 2.0, Demand(max_error=0.01): 1.0, Demand(max_bytes=5): 1.0}
    answered = smallest_that_satisfies(TABLE, demands)
    np.testing.assert_allclose(answered.probabilities, [0, 2 / 3, 0, 1 / 3])
    assert (answered.unreached, answered.unserved) == (0.25, 0.25)
    with pytest.raises(ValueError, match=r"no demand can be served: .*'a' of 10 bytes"):
        smallest_that_satisfies(TABLE, {Demand(max_bytes=5): 1})
    with pytest.raises(ValueError, match="there are no demands"):
        smallest_that_satisfies(TABLE, {})


def test_lists_and_histograms():
    assert histogram(["0.1", "0.2", "0.1"], "max_error") == {
        Demand(max_error=0.1): 2,
        Demand(max_error=0.2): 1,
    }
    assert histogram(["100:0.5", "200:3"], "max_bytes") == {
        Demand(max_bytes=100): 0.5,
        Demand(max_bytes=200): 3,
    }


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["20"], r"max_error=20\.0 must be a share .* did you mean 0\.2"),
        (["x"], "'x' is neither a number"),
        (["0.1:-1"], "'0.1:-1' is neither"),
        (["nan"], "'nan' is neither"),
        (["-0.1"], "must be finite and at least 0"),
        (["0.1:x"], "is neither"),
    ],
)
def test_what_is_no_demand_is_named(items, message):
    with pytest.raises(ValueError, match=message):
        histogram(items, "max_error")


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
    full=st.floats(0, 0.5),
    floor=st.floats(0, 0.1),
    seed=st.integers(0, 99),
)
def test_a_mixture_keeps_floor_and_full_model(weights, full, floor, seed):
    rng = np.random.default_rng(seed)
    policies = [rng.dirichlet(np.ones(5)) for _ in weights]
    total = math.fsum(weights)
    wanted = [False, True, True, True, True]
    mixed = mixture(
        policies, [w / total for w in weights], full_probability=full, floor=floor, wanted=wanted
    )
    assert math.fsum(mixed) == pytest.approx(1)
    assert min(mixed[1:]) >= floor - 1e-12
    assert mixed[-1] >= full + floor - 1e-12
    plain = sum(w / total * p for w, p in zip(weights, policies, strict=True))
    np.testing.assert_allclose(mixed[0], (1 - full - 4 * floor) * plain[0], atol=1e-12)


def test_what_is_no_mixture_is_refused():
    one = [0.5, 0.5]
    with pytest.raises(ValueError, match=r"sum to 0\.9, not to 1"):
        mixture([one, one], [0.5, 0.4])
    with pytest.raises(ValueError, match=r"make 1\.3; wanted at least 0 each, and at most 1"):
        mixture([one], [1.0], full_probability=0.3, floor=0.5)
    with pytest.raises(ValueError, match=r"policies of \[2, 3\] configurations"):
        mixture([one, [0.2, 0.3, 0.5]], [0.5, 0.5])
