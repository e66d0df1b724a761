"""The benchmark of several seeds: every way takes the same steps."""

import jax
import numpy as np

from benchmarks.ours import make_experiment
from benchmarks.seeds import Runs, measure
from benchmarks.work import Options

SMALL = Options(depth_n=1, batch_size=8, examples=32, pad=1)


def test_measures_every_way_as_often_as_asked():
    seconds = measure(SMALL, seeds=2, steps=1, repeats=2)
    assert {way: len(of) for way, of in seconds.items()} == {
        "one after the other": 2,
        "interleaved": 2,
        "at once": 2,
    }
    assert min(min(of) for of in seconds.values()) > 0


def test_runs_at_once_lose_what_they_lose_alone():
    experiment = make_experiment(SMALL, {"policy.seed": 0})
    mask = experiment.ladder[1].skip_mask
    at_once = np.asarray(Runs(experiment, [0, 1]).start(mask))[0]
    alone = [np.asarray(Runs(experiment, [seed]).start(mask))[0] for seed in (0, 1)]
    np.testing.assert_allclose(at_once, alone, rtol=1e-4)
    assert abs(alone[0] - alone[1]) > 1e-3
    assert jax.device_count() == 8
