"""The benchmark of compiling measures what it says, at a tiny size."""

import pytest

from accordion_jax import training
from benchmarks.ours import Ours
from benchmarks.work import Options
from tests.benchmarks.tables import rows_of

OPTIONS = Options(depth_n=2, batch_size=8, examples=16)


def test_stages_are_scanned_where_that_is_measured():
    loops = {}
    for scan in (False, True):
        run = Ours(OPTIONS, {"run.scan_stages": scan})
        function, arguments = run.step_of(training.single(OPTIONS.mask(2)))
        text = function.lower(*arguments).as_text()
        # The stem, and the gradient of its kernel; the two of a block, and two gradients each.
        assert text.count("stablehlo.convolution") == 2 + 2 * 3
        loops[scan] = text.count("stablehlo.while")
    assert loops[True] == loops[False] + 2  # forward and backward


@pytest.mark.slow
def test_cold_processes_fill_the_cache_that_warm_ones_find(run_command):
    sizes = ("--depth_n=1", "--batch_size=8", "--sweep_examples=8", "--variants=1", "--workers=1")
    finished = run_command("benchmarks.compilers.variants", *sizes, "--steps=2", "--way=unrolled")
    assert finished.returncode == 0, finished.stderr
    cold, warm, *many = rows_of(finished.stdout)
    assert int(cold["found in the cache"]) < int(warm["found in the cache"])
    assert cold["later steps, s"] == "-"
    assert " to " in warm["later steps, s"]
    for row in (cold, warm):
        assert 0 < float(row["set-up, s"]) < float(row["first step done, s"])
    assert [(row["cache"], row["at once"], row["found in the cache"]) for row in many] == [
        ("cold", "1", "0"),
        ("warm", "1", "1"),
    ]
