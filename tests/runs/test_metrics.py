"""When a run had reached an error, from what it has written."""

import json

import pytest

from accordion_jax.runs.metrics import convergence, convergence_table
from accordion_jax.runs.sessions import write_sessions


@pytest.fixture
def workdir(tmp_path):
    """A run of batches of 100: 10 s for each of the first 50 steps' windows, 20 s for the last."""
    records = [
        {"step": 50, "split": "train", "images_per_second": 500.0, "error": 0.8},
        {"step": 50, "split": "test", "error": 0.5, "error_depth_1": 0.7, "error_depth_3": 0.3},
        {"step": 100, "split": "train", "images_per_second": 250.0, "error": 0.4},
        {"step": 100, "split": "test", "error": 0.2, "error_depth_1": 0.4, "error_depth_3": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "config.json").write_text(json.dumps({"config": {"train": {"batch_size": 100}}}))
    return tmp_path


def test_seconds_of_training_until_an_error(workdir):
    found = convergence(workdir)
    assert found.steps == (50, 100)
    assert found.seconds == (10.0, 30.0)
    assert found.errors == (0.5, 0.2)
    assert found.until(0.5) == (10.0, 50)
    assert found.until(0.3) == (30.0, 100)
    assert found.until(0.1) is None
    assert found.spent_s is None
    write_sessions(workdir, [{"started": "2026-01-01T00:00:00+00:00", "seconds": 41.0}])
    table = convergence_table({"run": convergence(workdir)}, [0.5, 0.1], "the error")
    assert "| run | 10 s (step 50) | - | 20.00 % | 30 s | 41 s |" in table


def test_under_the_same_weights_for_all_runs(workdir):
    assert convergence(workdir, {3: 1.0}).errors == (0.3, 0.1)
    # Depth 2 was not measured: half way between the two that were.
    assert convergence(workdir, {1: 0.5, 2: 0.5}).errors == pytest.approx((0.6, 0.325))
    # What is outside of those that were measured is not made up, but may have no weight.
    unknown = convergence(workdir, {0: 0.5, 3: 0.5})
    assert unknown.errors == (None, None)
    assert unknown.until(0.9) is None
    assert "not measured" in convergence_table({"run": unknown}, [0.5], "x")
    assert convergence(workdir, {0: 0.0, 3: 1.0}).errors == (0.3, 0.1)
    # A little of it is left out.
    assert convergence(workdir, {0: 0.04, 3: 0.96}).errors == pytest.approx((0.3, 0.1))
    assert convergence(workdir, {0: 0.06, 3: 0.94}).errors == (None, None)


def test_a_run_without_evaluations_is_named(workdir):
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no errors measured while it was trained"):
        convergence(workdir)
