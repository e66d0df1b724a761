"""Several seeds of one run on one device: one after the other, interleaved, and at once.

    python -m benchmarks.training.seeds --at_once=5 --depth_n=9

The same steps of CoML-05 for every seed, three ways:

* one after the other: each step waits for the one before, as runs in turn do at best;
* interleaved: the steps of all seeds are handed to the device before the first is waited for;
* at once: one program over all seeds (`training.Together`, what `main --seeds` runs).

A small network leaves a large GPU idle, and the third fills it. On a CPU there is nothing to fill,
and XLA's grouped convolutions, which several sets of weights become, are slow; TPU's compiler too
expects more cycles of them than of the runs in turn (`benchmarks.compilers.chips --at_once=5`).

Time on two CPU cores: four minutes for --depth_n=3 --steps=2 --repeats=3.
"""

from collections.abc import Sequence

import jax

from benchmarks.options import AT_ONCE, JSON, REPEATS, STEPS, asked, run
from benchmarks.ours import Ours
from benchmarks.report import Report
from benchmarks.timing import Sample, clocked, interleaved
from benchmarks.work import Options


def measure(options: Options, seeds: int, steps: int, repeats: int) -> dict[str, Sample]:
    """Returns the seconds of so many steps of each of so many seeds, by way."""
    shared = {"policy.seed": 0}
    alone = [Ours(options, shared, seeds=[seed]) for seed in range(seeds)]
    for each in alone[1:]:
        each.variants = alone[0].variants  # the programs are the same: the seed is an argument
    at_once = Ours(options, shared, seeds=range(seeds))
    masks = at_once.drawn(steps)

    def one_after_the_other() -> None:
        for each in alone:
            for mask in masks:
                each.train([mask])

    def start(runs: Sequence[Ours]) -> None:
        jax.block_until_ready([each.start(mask) for mask in masks for each in runs])

    ways = {
        "one after the other": one_after_the_other,
        "interleaved": lambda: start(alone),
        "at once": lambda: start([at_once]),
    }
    return interleaved({name: clocked(way) for name, way in ways.items()}, repeats)


def main() -> None:
    """Times and prints."""
    options = asked()
    kind = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    title = f"{options} each, {AT_ONCE.value} seeds, {STEPS.value} steps of CoML-05, on {kind}"
    with Report(title, JSON.value) as report:
        seconds = measure(options, AT_ONCE.value, STEPS.value, REPEATS.value)
        report.table({"": "", "seconds": ".3f", "images/s, all seeds": ".0f", "gain": ".2f"})
        images = AT_ONCE.value * STEPS.value * options.batch_size
        for way, of in seconds.items():
            gain = seconds["one after the other"].per(of)
            report.row(way, of.median, of.rate(images).median, gain)


if __name__ == "__main__":
    run(main, at_once=5)
