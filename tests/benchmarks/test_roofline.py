"""The command, at a tiny size; and that what it measures is something."""

import re

import pytest

from benchmarks import limits


def test_limits_are_finite_rates():
    assert limits.matmul_flops("float32", 0.0) > 1e6
    assert limits.memory_bandwidth(1 << 20) > 1e6
    assert limits.repeated_bandwidth(1 << 12) > 1e3
    assert 0 < limits.dispatch_seconds(5) < 1


@pytest.mark.slow
def test_the_command_says_what_bounds_a_step(run_command, tmp_path):
    picture, traces = tmp_path / "roofline.png", tmp_path / "traces"
    sizes = ("--depth_n=1", "--batch_size=8", "--repeats=1", "--steps=2", "--large_mb=8")
    finished = run_command(
        "benchmarks.roofline", *sizes, f"--picture={picture}", f"--trace_dir={traces}"
    )
    assert finished.returncode == 0, finished.stderr
    cells = {
        row[0].strip(): [cell.strip() for cell in row[1:]]
        for line in finished.stdout.splitlines()
        if line.startswith("| ") and (row := line.strip("| ").split("|"))
    }
    assert cells["a step of one device"] == ["3 blocks", "1 block"]
    formula, counted = (
        [float(cell) for cell in cells[row]]
        for row in ("GFLOP, 6 x MACs x images", "GFLOP, XLA's count")
    )
    # XLA leaves out the padding, and counts a little beside the products.
    assert all(0.85 < b / a < 1.1 for a, b in zip(formula, counted, strict=True))
    launched = [int(cell) for cell in cells["operations launched"]]
    assert launched[0] > launched[1] > 50
    at_least, moved = cells["GB moved, at the least"], cells["GB moved, XLA's count"]
    assert all(0 < float(a) < float(b) for a, b in zip(at_least, moved, strict=True))

    kinds = ("forward", "input gradient", "weight gradient")
    assert all(f"convolution, {kind}" in cells for kind in kinds)
    assert "not attributed" not in cells
    header = list(cells).index("ms a step (share)")
    of_full = [float(row[0].split(" ")[0]) for row in list(cells.values())[header + 1 :]]
    *parts, whole = of_full
    assert sum(parts) == pytest.approx(whole, rel=0.01)

    assert re.search(r"^3 blocks: (Bound by|Faster than) ", finished.stdout, re.MULTILINE)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(traces.rglob("*.xplane.pb"))) == 2
