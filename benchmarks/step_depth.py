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
from benchmarks.sizes import BATCH_SIZE, DEPTH_N, DEPTHS, REPEATS
from benchmarks.timing import interleaved, median_ratio
from benchmarks.work import Options

_SCHEMES = flags.DEFINE_list("schemes", ["blockcoml", "coml"], "Whose ladders to climb.")


def main(_argv: list[str]) -> None:
    """Times and prints."""
    options = Options(DEPTH_N.value, BATCH_SIZE.value, examples=4 * BATCH_SIZE.value)
    ours = Ours(options)
    print(f"ResNet-{6 * DEPTH_N.value + 2}, batch {BATCH_SIZE.value}")
    print(machine("jax", "jaxlib", "flax"))
    for scheme in _SCHEMES.value:
        ladder = make_ladder(scheme, options.stage_sizes)
        last = len(ladder) - 1
        rungs = sorted({round(last * i / DEPTHS.value) for i in range(1, DEPTHS.value + 1)})
        runs = {
            ladder[rung].name: functools.partial(ours.take, [ladder[rung].skip_mask])
            for rung in rungs
        }
        seconds = interleaved(runs, REPEATS.value)
        print("\n| configuration | blocks | share | seconds | time / full | difference |")
        print("| --- | --- | --- | --- | --- | --- |")
        worst = 0.0
        for configuration in map(ladder.__getitem__, rungs):
            of, share = seconds[configuration.name], configuration.depth / options.blocks
            ratio = median_ratio(of, seconds[ladder.full.name])
            worst = max(worst, abs(ratio - share))
            cells = f"{configuration.depth} | {share:.3f} | {np.median(of):.3f} | {ratio:.3f}"
            print(f"| {configuration.name} | {cells} | {ratio - share:+.3f} |")
        print(f"largest difference: {worst:.3f} (medians of {REPEATS.value} steps, in turn)")


if __name__ == "__main__":
    flags.set_default(BATCH_SIZE, 128)
    flags.set_default(REPEATS, 7)
    app.run(main)
