"""What a compiled step sends between devices: the averages of what it trains, once, no more."""

import functools

import jax
import pytest

from accordion_jax import training
from benchmarks.compilers.hlo import collectives
from benchmarks.ours import compile_step, make_experiment
from benchmarks.work import Options

FULL, SHORT = (False,) * 4, (False, True, False, True)
OPTIONS = Options(batch_size=8, examples=16)
METRICS = 2  # loss and error, a number each


@functools.cache
def tiny(cross_replica=False):
    fields = {
        "model.arguments.stage_sizes": (2, 1, 1),
        "model.arguments.channels": (4, 8, 16),
        "model.cross_replica_batch_norm": cross_replica,
    }
    return make_experiment(OPTIONS, fields)


@functools.cache
def sent(mask, devices, cross_replica=False):
    """What the compiled step sends between so many devices."""
    compiled = compile_step(tiny(cross_replica), mask, jax.devices()[:devices])
    return collectives(compiled.as_text())


def numbers(mask, *names):
    """How many numbers of these parts of the state the units hold that a mask keeps."""
    kept = tiny().shapes.keep(tiny().units(training.single(mask)))
    return sum(x.size for name in names for x in jax.tree.leaves(getattr(kept, name)))


def averaged_bytes(mask):
    return 4 * (numbers(mask, "params", "batch_stats") + METRICS)


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("mask", [FULL, SHORT], ids=["full", "truncated"])
def test_one_all_reduce_carries_what_is_trained_and_nothing_else(mask, devices):
    (only,) = sent(mask, devices)
    assert only.kind == "all-reduce"
    assert only.size_bytes == averaged_bytes(mask)


def test_a_skipped_block_sends_nothing():
    """Written out: two 3x3 convolutions, two batch norms of two parameters and two statistics."""
    (full,), (short,) = sent(FULL, 2), sent(SHORT, 2)
    skipped = sum(2 * 9 * channels**2 + 2 * 4 * channels for channels in (4, 16))
    assert full.size_bytes - short.size_bytes == 4 * skipped


def test_cross_replica_batch_norm_adds_two_small_all_reduces_a_layer():
    """Two vectors of channels forward, two backward; one of these is the gradient of the bias.

    XLA sees that, and leaves the bias out of the last all-reduce: three vectors more a layer.
    """
    found = sent(SHORT, 8, cross_replica=True)
    norms = 1 + 2 * SHORT.count(False)
    assert [each.kind for each in found] == ["all-reduce"] * (1 + 2 * norms)
    channels = numbers(SHORT, "batch_stats") // 2
    assert sum(each.size_bytes for each in found) == averaged_bytes(SHORT) + 4 * 3 * channels
