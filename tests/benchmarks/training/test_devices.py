"""The benchmark of several devices counts what a step sends, at a tiny size."""

import pytest

from tests.benchmarks.tables import rows_of


@pytest.mark.slow
def test_each_number_of_devices_has_a_row(run_command):
    sizes = ("--depth_n=1", "--batch_size=4", "--repeats=1")
    finished = run_command("benchmarks.training.devices", *sizes, "--devices=1,2")
    assert finished.returncode == 0, finished.stderr
    one, two = rows_of(finished.stdout)
    assert (one["devices"], two["devices"]) == ("1", "2")
    assert float(one["efficiency"]) == 1
    assert two["all-reduces"] == "1"
    assert two["other operations"] == "0"
    # ResNet-8 for 100 classes: 81,280 parameters and statistics, and two metrics.
    assert float(two["MB in them"]) > 0.3
