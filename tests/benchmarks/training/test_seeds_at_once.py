"""The benchmark of several seeds: every way takes the same steps."""

import jax
import numpy as np

from benchmarks.ours import Ours
from benchmarks.training.seeds import measure
from benchmarks.work import Options

SMALL = Options(depth_n=1, batch_size=8, examples=32)


def test_measures_every_way_as_often_as_asked():
    seconds = measure(SMALL, seeds=2, steps=1, repeats=2)
    assert {way: len(of.values) for way, of in seconds.items()} == {
        "one after the other": 2,
        "interleaved": 2,
        "at once": 2,
    }
    assert min(min(of.values) for of in seconds.values()) > 0


def test_runs_at_once_lose_what_they_lose_alone():
    def losses(*seeds):
        run = Ours(SMALL, {"policy.seed": 0}, seeds=seeds)
        return np.asarray(run.start(SMALL.mask(1))["loss"])[0]

    at_once, alone = losses(0, 1), [losses(0), losses(1)]
    np.testing.assert_allclose(at_once, alone, rtol=1e-4)
    assert abs(alone[0] - alone[1]) > 1e-3
    assert jax.device_count() == 8
