"""A skipped block costs no time: the time of a training step against the number of kept blocks.

    python -m benchmarks.step_depth --depth_n=9 --batch_size=128

Prints time(k) / time(full) beside k / all for ResNet-(6n+2) under CoML, and the largest difference.
"""

import functools

import numpy as np
from absl import app, flags

from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.timing import interleaved, median_ratio
from benchmarks.work import Options

_DEPTH_N = flags.DEFINE_integer("depth_n", 9, "n of ResNet-(6n+2).", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
_DEPTHS = flags.DEFINE_integer("depths", 5, "How many depths to time, evenly spaced.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Counted steps of each.", lower_bound=1)


def main(_argv: list[str]) -> None:
    """Times and prints."""
    options = Options(_DEPTH_N.value, _BATCH.value, examples=4 * _BATCH.value)
    ours, total = Ours(options), options.blocks
    depths = sorted({round(total * i / _DEPTHS.value) for i in range(1, _DEPTHS.value + 1)})
    runs = {str(depth): functools.partial(ours.train, [depth]) for depth in depths}
    seconds = interleaved(runs, _REPEATS.value)
    print(f"ResNet-{6 * _DEPTH_N.value + 2}, batch {_BATCH.value}")
    print(machine("jax", "jaxlib", "flax"))
    print("| blocks | share | seconds | time / full | difference |")
    print("| --- | --- | --- | --- | --- |")
    worst = 0.0
    for depth in depths:
        of, share = seconds[str(depth)], depth / total
        ratio = median_ratio(of, seconds[str(total)])
        worst = max(worst, abs(ratio - share))
        row = f"{depth} | {share:.3f} | {np.median(of):.3f} | {ratio:.3f} | {ratio - share:+.3f}"
        print(f"| {row} |")
    print(f"largest difference: {worst:.3f} (medians of {_REPEATS.value} steps, taken in turn)")


if __name__ == "__main__":
    app.run(main)
