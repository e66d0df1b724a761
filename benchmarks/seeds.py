"""Several seeds of one run on one device: one after the other, interleaved, and at once.

    python -m benchmarks.seeds --seeds=5 --depth_n=9

The same steps of CoML-05 for every seed, three ways:

* one after the other: each step waits for the one before, as runs in turn do at best;
* interleaved: the steps of all seeds are handed to the device before the first is waited for;
* at once: one program over all seeds (`training.Together`, what `main --seeds` runs).

A small network leaves a large accelerator idle, and the third fills it. On a CPU there is nothing
to fill, and XLA's grouped convolutions, which several sets of weights become, are slow.
"""

from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from accordion_jax import data, training
from accordion_jax.depth import draw
from benchmarks.machine import machine
from benchmarks.ours import make_experiment
from benchmarks.timing import interleaved, median_ratio
from benchmarks.work import Options

_SEEDS = flags.DEFINE_integer("seeds", 5, "How many runs.", lower_bound=1)
_DEPTH_N = flags.DEFINE_integer("depth_n", 9, "n of ResNet-(6n+2).", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 124, "Of each run.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Of one measurement.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each way.", lower_bound=1)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "Of the computation."
)


class Runs:
    """Some runs of one config on the devices, trained as one program."""

    def __init__(self, experiment: training.Experiment, seeds: Sequence[int]):
        """Puts the runs' states on the devices; compiles at the first step of each depth."""
        self._together = together = training.Together([experiment.with_seed(s) for s in seeds])
        self._state = data.replicate(together.stack([each.init() for each in together.experiments]))
        self._images, self._labels = data.replicate(
            (experiment.train.images, experiment.train.labels)
        )
        self._key = data.replicate(together.key)
        self._order = together.mapped_epoch_order()(self._state.step, self._key)
        self.variants = training.Variants(self._step_of, training.cpu_compiler_options())

    def _arguments(self, skip_mask):
        kept = self._state.keep(self._together.experiment.units(skip_mask))
        return (kept, self._order, self._images, self._labels, self._key)

    def _step_of(self, skip_mask):
        return self._together.mapped_step(skip_mask), self._arguments(skip_mask)

    def start(self, skip_mask) -> jax.Array:
        """Starts a step; returns its losses, which are there when it is done."""
        updated, metrics = self.variants(skip_mask)(*self._arguments(skip_mask))
        self._state = self._state.merge(updated)
        return metrics["loss"]


def measure(options: Options, seeds: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of so many steps of all seeds, by way.

    Args:
      options: the size of the work.
      seeds: how many runs.
      steps: of each run in one measurement.
      repeats: measurements of each way, taken in turn.
    """
    experiment = make_experiment(options, {"policy.seed": 0})
    ladder, policy = experiment.ladder, experiment.policy
    masks = [ladder[draw(policy, seed=0, step=step)].skip_mask for step in range(steps)]
    alone = [Runs(experiment, [seed]) for seed in range(seeds)]
    for each in alone[1:]:
        each.variants = alone[0].variants  # the programs are the same: the seed is an argument
    at_once = Runs(experiment, range(seeds))

    def one_after_the_other():
        for run in alone:
            for mask in masks:
                run.start(mask).block_until_ready()

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
        _DEPTH_N.value, _BATCH.value, precision=_PRECISION.value, examples=4 * _BATCH.value
    )
    print(
        f"ResNet-{6 * options.depth_n + 2}, {_SEEDS.value} seeds, batch {options.batch_size} each, "
        f"{options.precision}, {_STEPS.value} steps of CoML-05, "
        f"medians of {_REPEATS.value} taken in turn"
    )
    print(f"{jax.devices()[0].device_kind}; {machine('jax', 'jaxlib', 'flax')}\n")
    seconds = measure(options, _SEEDS.value, _STEPS.value, _REPEATS.value)
    print("| | seconds | images/s, all seeds | gain |")
    print("| --- | ---: | ---: | ---: |")
    images = _SEEDS.value * _STEPS.value * options.batch_size
    for way, of in seconds.items():
        gain = 1 / median_ratio(of, seconds["one after the other"])
        print(f"| {way} | {np.median(of):.3f} | {images / np.median(of):.0f} | {gain:.2f} |")


if __name__ == "__main__":
    app.run(main)
