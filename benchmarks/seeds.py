"""Several seeds of one run on one device: one after the other, interleaved, and at once.

    python -m benchmarks.seeds --at_once=5 --depth_n=9

The same steps of CoML-05 for every seed, three ways:

* one after the other: each step waits for the one before, as runs in turn do at best;
* interleaved: the steps of all seeds are handed to the device before the first is waited for;
* at once: one program over all seeds (`training.Together`, what `main --seeds` runs).

A small network leaves a large GPU idle, and the third fills it. On a CPU there is nothing to fill,
and XLA's grouped convolutions, which several sets of weights become, are slow; TPU's compiler too
expects more cycles of them than of the runs in turn (`benchmarks.topology --at_once=5`).
"""

import jax
import numpy as np
from absl import app, flags

from accordion_jax.depth import draw
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.sizes import AT_ONCE, BATCH_SIZE, DEPTH_N, PRECISION, REPEATS, STEPS
from benchmarks.timing import interleaved, median_ratio
from benchmarks.work import Options


def measure(options: Options, seeds: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of so many steps of all seeds, by way.

    Args:
      options: the size of the work.
      seeds: how many runs.
      steps: of each run in one measurement.
      repeats: measurements of each way, taken in turn.
    """
    shared = {"policy.seed": 0}
    alone = [Ours(options, shared, seeds=[seed]) for seed in range(seeds)]
    for each in alone[1:]:
        each.variants = alone[0].variants  # the programs are the same: the seed is an argument
    at_once = Ours(options, shared, seeds=range(seeds))
    ladder, policy = at_once.experiment.ladder, at_once.experiment.policy
    masks = [ladder[draw(policy, seed=0, step=step)].skip_mask for step in range(steps)]

    def one_after_the_other():
        for run in alone:
            for mask in masks:
                run.take([mask])

    def all_interleaved():
        jax.block_until_ready([run.start(mask) for mask in masks for run in alone])

    def all_at_once():
        jax.block_until_ready([at_once.start(mask) for mask in masks])

    ways = {
        "one after the other": one_after_the_other,
        "interleaved": all_interleaved,
        "at once": all_at_once,
    }
    return interleaved(ways, repeats)


def main(_argv: list[str]) -> None:
    """Times and prints."""
    options = Options(
        DEPTH_N.value,
        BATCH_SIZE.value,
        precision=PRECISION.value,
        examples=4 * BATCH_SIZE.value,
    )
    print(
        f"ResNet-{6 * options.depth_n + 2}, {AT_ONCE.value} seeds, "
        f"batch {options.batch_size} each, {options.precision}, {STEPS.value} steps of CoML-05, "
        f"medians of {REPEATS.value} taken in turn"
    )
    print(f"{jax.devices()[0].device_kind}; {machine('jax', 'jaxlib', 'flax')}\n")
    seconds = measure(options, AT_ONCE.value, STEPS.value, REPEATS.value)
    print("| | seconds | images/s, all seeds | gain |")
    print("| --- | ---: | ---: | ---: |")
    images = AT_ONCE.value * STEPS.value * options.batch_size
    for way, of in seconds.items():
        gain = 1 / median_ratio(of, seconds["one after the other"])
        print(f"| {way} | {np.median(of):.3f} | {images / np.median(of):.0f} | {gain:.2f} |")


if __name__ == "__main__":
    flags.set_default(AT_ONCE, 5)
    app.run(main)
