"""The benchmark of compile time measures what it says, at a tiny size."""

import json
import time

import pytest

from benchmarks import compile_time, compile_work
from benchmarks.work import Options

OPTIONS = Options(depth_n=2, batch_size=8, examples=16)


def test_a_larger_program_is_larger_and_each_part_takes_time():
    small, large = (compile_work.one_depth(OPTIONS, False, depth, started=0.0) for depth in (0, 2))
    for found in (small, large):
        assert min(found["trace"], found["lower"], found["compile"]) > 0
    assert large["stablehlo_lines"] > 1.2 * small["stablehlo_lines"]
    assert large["hlo_instructions"] > 1.2 * small["hlo_instructions"]


def test_stages_are_scanned_where_that_is_measured():
    loops = {}
    for scan in (False, True):
        ours, _ = compile_work.measured(OPTIONS, scan)
        function, arguments = ours._step_of(OPTIONS.mask(2))
        text = function.lower(*arguments).as_text()
        # The stem, and the gradient of its kernel; the two of a block, and two gradients each.
        assert text.count("stablehlo.convolution") == 2 + 2 * 3
        loops[scan] = text.count("stablehlo.while")
    assert loops[True] == loops[False] + 2  # forward and backward


def test_variants_are_timed_from_several_threads():
    began = time.perf_counter()
    found = compile_work.many_variants(OPTIONS, False, "", (1, 2), 2, started=0.0)
    elapsed = time.perf_counter() - began
    assert 0 < found["wall_s"] < elapsed
    for part in ("trace", "lower", "compile"):
        assert 0 < found[part] < 2 * found["wall_s"], part
    assert 0 < found["python_cpu"] < 1.1 * (found["trace"] + found["lower"])


@pytest.mark.parametrize(
    ("blocks", "count", "depths"),
    [(9, 3, (3, 6, 9)), (9, 0, tuple(range(1, 10))), (2, 5, (1, 2)), (54, 4, (14, 27, 40, 54))],
)
def test_depths_are_evenly_spaced_and_end_with_the_full_one(blocks, count, depths):
    assert compile_time.evenly_spaced(blocks, count) == depths


@pytest.mark.slow
def test_cold_processes_fill_the_cache_that_warm_ones_find():
    document = compile_time.measure(
        Options(depth_n=1, batch_size=8, examples=16),
        depths=(),
        variants=(1, 2),
        workers=(2,),
        steps=2,
        ways=("scanned",),
    )
    document = json.loads(json.dumps(document))
    cold, warm = document["variants"]
    assert (cold["cache"], cold["hits"], warm["cache"], warm["hits"]) == ("cold", 0, "warm", 2)
    cold, warm = document["starts"]
    assert cold["hits"] < warm["hits"]
    assert (len(cold["steps_s"]), len(warm["steps_s"])) == (0, 2)
    for start in (cold, warm):
        assert start["setup_s"] + start["compile"] < start["first_step_s"]
    text = compile_time.as_markdown(document)
    assert "| scanned | warm | 2 |" in text
    assert "start to the first step done, scanned: " in text
