"""A training step on some of the devices: compiled, counted, taken.

Run as a program it is one side of `benchmarks.scaling`, in a process of its own: it writes a line
of JSON that says what it compiled and then, for each line it reads, takes a step and writes the
seconds. The number of virtual CPU devices is set in the environment, before JAX starts.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from accordion_jax import training
from accordion_jax.training import layout
from benchmarks.collectives import Collective, collectives
from benchmarks.ours import make_experiment
from benchmarks.sizes import BATCH_SIZE, DEPTH_N
from benchmarks.work import Options

_CROSS = flags.DEFINE_bool("cross_replica_batch_norm", False, "Normalise over the whole batch.")
_EXAMPLES = 512  # on the devices; more where the batch is larger


def compile_step(
    experiment: training.Experiment,
    skip_mask: tuple[bool, ...],
    devices: Sequence[jax.Device],
    compiler_options: dict[str, Any] | None = None,
    seeds: int = 1,
) -> jax.stages.Compiled:
    """Returns the compiled step of a skip mask on these devices; they need not be there.

    Args:
      experiment: its step and its shapes.
      skip_mask: static; True skips that block.
      devices: that share the batch, also those of a topology without hardware.
      compiler_options: of XLA.
      seeds: how many runs take it at once.
    """
    together = _together(experiment, devices, seeds)
    each_run = (seeds,) if seeds > 1 else ()
    arguments = (
        together.shapes.keep(experiment.units(skip_mask)),
        jax.ShapeDtypeStruct((*each_run, len(experiment.train)), np.int32),
        *(
            jax.ShapeDtypeStruct(x.shape, x.dtype)
            for x in (experiment.train.rows, experiment.train.labels, together.key)
        ),
    )
    stacked = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), arguments
    )
    mapped = together.mapped_step(skip_mask, devices)
    lowered = mapped.lower(*stacked)  # type: ignore[attr-defined]
    return lowered.compile(compiler_options=compiler_options)


def _together(
    experiment: training.Experiment, devices: Sequence[jax.Device], seeds: int = 1
) -> training.Together:
    """The runs as these devices want them, which need not be the default ones."""
    kernels = layout.preferred(devices[0], experiment.config.model.dtype)
    return training.Together([experiment.with_seed(seed) for seed in range(seeds)], kernels)


class DeviceSteps:
    """The full step on some devices, with its state and data on them.

    Attributes:
      compiled: the step.
      collectives: what it sends between devices.
    """

    def __init__(self, experiment: training.Experiment, devices: Sequence[jax.Device]):
        """Compiles, and places the state after initialisation and the data."""
        mask = experiment.ladder.full.skip_mask
        self.compiled = compile_step(experiment, mask, devices, training.cpu_compiler_options())
        self.collectives = collectives(self.compiled.as_text() or "")
        together = _together(experiment, devices)
        arguments = (
            together.arrange([run.init() for run in together.experiments]),
            np.arange(len(experiment.train), dtype=np.int32),
            experiment.train.rows,
            experiment.train.labels,
            together.key,
        )
        stacked = jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), (len(devices), *x.shape)), arguments
        )
        self._state, *self._data = jax.device_put(stacked, self.compiled.input_shardings[0])

    def take(self) -> float:
        """Takes a step; returns the seconds until it is done on all devices."""
        started = time.perf_counter()
        self._state, metrics = self.compiled(self._state, *self._data)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started


def summary(found: Sequence[Collective]) -> dict[str, int]:
    """Returns how many operations between devices there are, of them all-reduces, and bytes."""
    return {
        "operations": len(found),
        "all_reduces": sum(each.kind == "all-reduce" for each in found),
        "size_bytes": sum(each.size_bytes for each in found),
    }


def experiment_of(depth_n: int, batch_size: int, *, cross_replica: bool) -> training.Experiment:
    """Returns the experiment that is timed: CoML on random images of CIFAR's size."""
    options = Options(depth_n, batch_size, examples=max(_EXAMPLES, batch_size))
    return make_experiment(options, {"model.cross_replica_batch_norm": cross_replica})


def main(_argv: list[str]) -> None:
    """Compiles and reports; then a step a line."""
    replies, sys.stdout = sys.stdout, sys.stderr  # so that nothing else lands among the replies
    experiment = experiment_of(DEPTH_N.value, BATCH_SIZE.value, cross_replica=_CROSS.value)
    steps = DeviceSteps(experiment, jax.devices())
    print(json.dumps(summary(steps.collectives)), file=replies, flush=True)
    for _ in sys.stdin:
        print(json.dumps(steps.take()), file=replies, flush=True)


if __name__ == "__main__":
    flags.set_default(BATCH_SIZE, 128)
    app.run(main)
