"""The work of the benchmark, done by this package's own compiled step and sweep."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from accordion_jax import data, evaluation, training
from accordion_jax.data import loading
from accordion_jax.depth import SkipMask
from accordion_jax.runs.config import default_config
from benchmarks.work import MEAN, NUM_CLASSES, STD, Options, random_data


def make_experiment(
    options: Options, overrides: Mapping[str, Any] | None = None
) -> training.Experiment:
    """Returns the experiment of a CoML-05 run on random images.

    Args:
      options: the size of the work.
      overrides: further fields of the config, such as ``data.flip``.
    """
    images, labels = random_data(options.examples)
    dataset = data.Dataset("random", images, labels, NUM_CLASSES, MEAN, STD)
    config = default_config()
    config.model.stage_sizes = options.stage_sizes
    config.model.dtype = options.precision
    config.train.batch_size = options.batch_size
    config.data.name = "random"
    config.data.pad = options.pad
    config.update_from_flattened_dict(overrides or {})
    loading.LOADERS["random"] = lambda *_: dataset
    try:
        return training.make_experiment(config, jax.device_count())
    finally:
        del loading.LOADERS["random"]


class Ours:
    """The work of the benchmark, done by JAX: the loop's compiled variants, one a depth."""

    def __init__(
        self,
        options: Options,
        overrides: Mapping[str, Any] | None = None,
        compiler_options: Mapping[str, str | bool] | None = None,
        seeds: Sequence[int] = (0,),
    ):
        """Makes the state and puts the data on the devices; compiles nothing.

        Args:
          options: the size of the work.
          overrides: as `make_experiment`.
          compiler_options: of XLA, beside those of the loop.
          seeds: trained as one.
        """
        self.options = options
        self.experiment = make_experiment(options, overrides)
        experiment = self.experiment
        together = self.together = training.Together([experiment.with_seed(s) for s in seeds])
        states = [each.init() for each in together.experiments]
        self.state = together.place(states)
        dataset = experiment.train
        self.images, self.labels = data.replicate((dataset.rows, dataset.labels))
        self.key = data.replicate(together.key)
        self.order = together.mapped_epoch_order()(self.state.step, self.key)
        flags = training.cpu_compiler_options() | dict(compiler_options or {})
        self.variants = training.Variants(self._step_of, flags)
        self._sweep: evaluation.Sweep | None = None

    def _arguments(self, skip_mask: SkipMask) -> tuple[Any, ...]:
        kept = self.state.keep(self.experiment.units(skip_mask))
        return kept, self.order, self.images, self.labels, self.key

    def _step_of(self, skip_mask):
        return self.together.mapped_step(skip_mask), self._arguments(skip_mask)

    def train(self, depths: Sequence[int]) -> float:
        """Takes a step of each depth; returns the seconds until all are done."""
        return self.take([self.options.mask(depth) for depth in depths])

    def take(self, skip_masks: Sequence[SkipMask]) -> float:
        """Takes a step of each skip mask; returns the seconds until all are done."""
        started = time.perf_counter()
        for mask in skip_masks:
            metrics = self.start(mask)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - started

    def start(self, skip_mask: SkipMask) -> dict[str, jax.Array]:
        """Starts a step; returns its metrics, which are there when it is done."""
        updated, metrics = self.variants(skip_mask)(*self._arguments(skip_mask))
        self.state = self.state.merge(updated)
        return metrics

    def compile(self, depths: Sequence[int]) -> float:
        """Compiles depths, several at once; returns the seconds."""
        started = time.perf_counter()
        for _ in self.variants.compile_ahead([self.options.mask(depth) for depth in depths]):
            pass
        return time.perf_counter() - started

    def sweep(self) -> float:
        """Measures every prefix on the sweep's images in one pass; returns the seconds."""
        if self._sweep is None:
            self._sweep = evaluation.Sweep(
                self.experiment.model,
                self.experiment.ladder.skip_masks,
                self.experiment.train,
                batch_size=self.options.sweep_batch_size,
                examples=self.options.sweep_examples,
                compiler_options=training.cpu_compiler_options(),
            )
        variables = jax.block_until_ready(self.variables)
        started = time.perf_counter()
        counts = self._sweep(variables)
        np.asarray(counts.errors)
        return time.perf_counter() - started

    @property
    def variables(self) -> dict[str, Any]:
        """What the model takes, of the first seed, replicated over the devices."""
        return self.together.split(self.state)[0].variables

    def peak_bytes(self) -> int:
        """Returns the most memory used: of the accelerator, else of this process."""
        device = jax.local_devices()[0]
        if device.platform != "cpu" and (stats := device.memory_stats()):
            return stats["peak_bytes_in_use"]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )

    def facts(self) -> dict[str, str]:
        """Returns versions and hardware."""
        return training.versions()
