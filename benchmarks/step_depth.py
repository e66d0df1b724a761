"""A skipped block costs no time: the time of a training step against the number of kept blocks.

    python -m benchmarks.step_depth --depth_n=9 --batch_size=128

Prints, for ResNet-(6n+2), time(k) / time(full) beside the share of the blocks that are kept, and
the largest difference. Under BlockCoML the kept blocks are a fair sample of all. Under CoML they
are the first ones, and on a CPU those cost more than the last: as many operations, on four and
sixteen times as much memory.
"""

import functools

import numpy as np
from absl import app, flags

from accordion_jax.depth import make_ladder
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.timing import interleaved, median_ratio
from benchmarks.work import Options

_DEPTH_N = flags.DEFINE_integer("depth_n", 9, "n of ResNet-(6n+2).", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images a step.", lower_bound=1)
_DEPTHS = flags.DEFINE_integer("depths", 5, "How many depths to time, evenly spaced.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Counted steps of each.", lower_bound=1)
_SCHEMES = flags.DEFINE_list("schemes", ["blockcoml", "coml"], "Whose ladders to climb.")


def main(_argv: list[str]) -> None:
    """Times and prints."""
    options = Options(_DEPTH_N.value, _BATCH.value, examples=4 * _BATCH.value)
    ours = Ours(options)
    print(f"ResNet-{6 * _DEPTH_N.value + 2}, batch {_BATCH.value}")
    print(machine("jax", "jaxlib", "flax"))
    for scheme in _SCHEMES.value:
        ladder = make_ladder(scheme, options.stage_sizes)
        last = len(ladder) - 1
        rungs = sorted({round(last * i / _DEPTHS.value) for i in range(1, _DEPTHS.value + 1)})
        runs = {
            ladder[rung].name: functools.partial(ours.take, [ladder[rung].skip_mask])
            for rung in rungs
        }
        seconds = interleaved(runs, _REPEATS.value)
        print("\n| configuration | blocks | share | seconds | time / full | difference |")
        print("| --- | --- | --- | --- | --- | --- |")
        worst = 0.0
        for configuration in map(ladder.__getitem__, rungs):
            of, share = seconds[configuration.name], configuration.depth / options.blocks
            ratio = median_ratio(of, seconds[ladder.full.name])
            worst = max(worst, abs(ratio - share))
            cells = f"{configuration.depth} | {share:.3f} | {np.median(of):.3f} | {ratio:.3f}"
            print(f"| {configuration.name} | {cells} | {ratio - share:+.3f} |")
        print(f"largest difference: {worst:.3f} (medians of {_REPEATS.value} steps, in turn)")


if __name__ == "__main__":
    app.run(main)
