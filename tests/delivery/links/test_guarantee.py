"""The guarantee holds as often as it says, by simulation, and says when nothing can be promised."""

import functools
import math

import numpy as np
import pytest

from accordion_jax.delivery.links import guarantee as guarantee_lib
from accordion_jax.delivery.links.guarantee import (
    carried_within,
    guarantee,
    independent_links,
)
from accordion_jax.delivery.links.replay import Method
from accordion_jax.delivery.links.traces import Trace, constant
from accordion_jax.depth.bounds import clopper_pearson_upper
from tests.delivery.toys import make_table

SIZES = np.array([1000, 10_000, 50_000, 100_000])
RATES = np.array([0.6, 0.35, 0.2, 0.15])
NAMES = ["a", "b", "c", "d"]
METHOD = Method("m", tuple(SIZES.tolist()), tuple(RATES.tolist()), round_trips=2)


def promise(carried, errors=RATES, **kwargs):
    table = make_table(NAMES, SIZES.tolist(), errors)
    return guarantee(table, METHOD, np.asarray(carried, float), deadline_s=0.3, **kwargs)


@pytest.mark.parametrize("content", [None, 0.8])
def test_it_holds_as_often_as_it_says(content, monkeypatch):
    # Of a thousand images few counts occur: each bound once.
    @functools.cache
    def one(errors, examples, alpha):
        return clopper_pearson_upper(errors, examples, alpha)[0]

    monkeypatch.setattr(
        guarantee_lib,
        "upper_band",
        lambda errors, examples, risk: np.array(
            [one(*each, risk / len(errors)) for each in zip(errors, examples, strict=True)]
        ),
    )
    rng = np.random.default_rng(0)
    links, trials, confidence = 40, 2000, 0.9
    carried = np.exp(rng.normal(10.5, 1.2, (trials, links)))
    following = np.exp(rng.normal(10.5, 1.2, trials))
    counts = rng.binomial(1000, RATES, (trials, 4))
    held, bounds, ranks = 0, [], set()
    for sample, next_bytes, errors in zip(carried, following, counts / 1000, strict=True):
        found = promise(sample, errors, confidence=confidence, content=content)
        ranks.add(found.rank)
        if found.configuration is None:
            held += 1
            continue
        index = NAMES.index(found.configuration)
        bounds.append(found.error_bound - RATES[index])
        if content is None:
            arrives = next_bytes >= found.size_bytes
        else:
            z = (math.log(found.size_bytes) - 10.5) / 1.2
            arrives = 0.5 * math.erfc(z / math.sqrt(2)) >= content
        held += arrives and RATES[index] <= found.error_bound
    assert held / trials >= confidence
    # Not needlessly wide: a thousand images bound an error within a few points, and the rank is
    # the largest that the risk allows.
    assert np.mean(bounds) < 0.065
    assert ranks == ({3} if content is None else {5})


def test_of_what_arrives_the_least_bound_is_promised():
    found = promise([60_000] * 20, errors=(0.6, 0.3, 0.5, 0.1), confidence=0.9)
    assert (found.configuration, found.size_bytes) == ("b", 10_000)
    assert 0.3 < found.error_bound < 0.36
    assert found.carried_bytes == 60_000
    said = found.statement("top-1 error")
    assert "With probability 0.9 over links and images, a request over the next link has" in said
    assert f"at most {100 * found.error_bound:.2f} %: b, of 10,000 bytes" in said


def test_what_cannot_be_promised_is_said():
    few = promise([1e6] * 5, confidence=0.95)
    assert few.configuration is None
    assert "5 independent links are too few" in few.statement()
    slow = promise([500.0] * 40, confidence=0.9)
    assert (slow.configuration, slow.error_bound) == (None, 1.0)
    assert "only 500 bytes are sure to arrive" in slow.statement()
    with pytest.raises(ValueError, match="there are no links"):
        promise([], confidence=0.9)
    with pytest.raises(ValueError, match="no percentages"):
        promise([1e6], confidence=90)
    with pytest.raises(ValueError, match="content=90"):
        promise([1e6], confidence=0.9, content=90)


def test_more_confidence_promises_less():
    carried = np.geomspace(1000, 200_000, 200)
    found = [promise(carried, confidence=c) for c in (0.8, 0.95, 0.99)]
    assert found[0].carried_bytes > found[1].carried_bytes > found[2].carried_bytes
    assert found[0].error_bound < found[1].error_bound < found[2].error_bound


def test_a_recording_counts_once_unless_it_is_cut_into_blocks():
    traces = [Trace("long", tuple(range(60)), tuple(1e6 * (1 + np.arange(60) // 20)), 60.0)]
    assert len(independent_links(traces)) == 1
    blocks = independent_links(traces, block_s=20.0)
    assert [(start, length) for _, start, length in blocks] == [(0, 20), (20, 20), (40, 20)]
    carried = carried_within(blocks, 0.08, seed=0)
    assert np.all(np.abs(carried / [1e4, 2e4, 3e4] - 1) < 0.5)
    np.testing.assert_array_equal(carried, carried_within(blocks, 0.08, seed=0))
    assert len(independent_links([constant(rate_bps=1.0)], block_s=20.0)) == 1
    np.testing.assert_array_equal(carried_within(blocks, -0.1, seed=0), 0)
