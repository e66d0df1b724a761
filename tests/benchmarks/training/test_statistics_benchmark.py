"""Shared statistics against a configuration's own, of a run on a disk."""

import pytest

from accordion_jax import training
from benchmarks.training.statistics import measure
from tests.training.test_loop import make


def test_each_configuration_has_both_errors_and_the_bytes_of_its_own(tmp_path, monkeypatch):
    experiment = make(scheme="blockcoml", train__steps=3, policy__full_probability=1.0)
    training.claim_workdir(tmp_path, experiment, write=True)
    training.train(experiment, tmp_path)
    rows = list(measure(str(tmp_path), steps=40, examples=200))
    assert [row[0].name for row in rows] == [each.name for each in experiment.ladder]
    assert all(0 <= error <= 1 for row in rows for error in row[1:3])
    # The stem has 4 channels, with mean and variance; a block of each stage two norms, of 4 and 8.
    assert [row[3] for row in rows] == [4 * 2 * 4, 4 * 2 * (4 + 2 * 4 + 2 * 8)]
    # After three steps the shared statistics are nearly those of the start.
    assert rows[-1][1:3] != pytest.approx((rows[-1][1],) * 2, abs=1e-9)
