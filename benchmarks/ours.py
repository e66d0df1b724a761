"""The work that is measured: the package's own step and sweep, by its public parts."""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from accordion_jax import data, evaluation, tasks, training
from accordion_jax.data import loading
from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.encoding import Measured, encoded_parts
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.ordering import blockwise, rungs_of, uniform
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.depth import make_ladder
from accordion_jax.models.costs import unit_costs
from accordion_jax.runs.config import default_config
from accordion_jax.training import layout
from benchmarks import work
from benchmarks.work import Options, SkipMask

Overrides = Mapping[str, Any]


def make_experiment(
    options: Options, overrides: Overrides | None = None, num_classes: int = work.NUM_CLASSES
) -> training.Experiment:
    """Returns the experiment of a CoML-05 run on random images.

    Args:
      options: the size of the work.
      overrides: further fields of the config, such as ``data.flip``.
      num_classes: of the images.
    """
    images, labels = work.random_data(options.examples, num_classes)
    task = tasks.Images(work.IMAGE_SHAPE, work.MEAN, work.STD)
    dataset = data.Dataset("random", task, images, labels, num_classes)
    config = default_config()
    fields = {
        "model.arguments.stage_sizes": (options.depth_n,) * 3,
        "model.dtype": options.precision,
        "train.batch_size": options.batch_size,
        "data.name": "random",
        "data.pad": work.PAD,
    }
    config.update_from_flattened_dict(fields | dict(overrides or {}))
    loading.LOADERS["random"] = lambda *_: dataset
    try:
        return training.make_experiment(config, jax.device_count())
    finally:
        del loading.LOADERS["random"]


def write_random_bundle(
    folder: pathlib.Path, depth_n: int, bits: Sequence[int] = (32,)
) -> pathlib.Path:
    """Writes a bundle of a ResNet-(6n+2) for 10 classes under CoML, and returns its folder.

    Random weights, and errors that fall with depth as they do for trained networks: delivery does
    not look at either. ResNet-110 (n = 18) is 7.1 MB in 55 segments.

    Args:
      folder: of bundles.
      depth_n: n.
      bits: a weight; of several, all blocks come in the first, and refinements to the others after
        them. Each depth is also there in the last alone.
    """
    experiment = make_experiment(Options(depth_n, examples=124), num_classes=10)
    model, ladder = experiment.model, experiment.ladder
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype), experiment.shapes.variables
    )
    errors = np.array([round(9000 * 0.95**configuration.depth) for configuration in ladder])
    counts = evaluation.Counts(10_000, errors, np.ones(len(ladder)))
    costs = unit_costs(model, variables, experiment.example_shape)
    description = experiment.description | {"classes": None}
    table = evaluation.make_table(ladder, counts, *costs, {"scheme": "coml"})
    names: dict[str, Any] = {"base_names": model.base_names, "block_names": model.block_names}
    if tuple(bits) == (32,):
        parts = bundle_parts(
            variables, **names, description=description, ladder=ladder, table=table
        )
        return write_bundle(folder, **parts)
    chains = Chains(
        fold_norms(variables),
        base_names=model.base_names,
        block_names=model.block_names,
        bits=bits,
    )
    order = blockwise(ladder, model.block_names, len(bits))
    found = rungs_of(order, ladder, model.block_names)
    found += uniform(ladder, model.block_names, len(bits) - 1)
    measured = [
        (rung, Measured(10_000, round(9000 * 0.97 ** len(rung.items)), 1.0)) for rung in found
    ]
    parts = encoded_parts(
        chains, order, measured, description=description, table=table, facts={"bits": list(bits)}
    )
    return write_bundle(folder, **parts)


def rungs(scheme: str, options: Options, count: int) -> dict[str, SkipMask]:
    """Returns name -> skip mask of so many configurations of a ladder, the full model last."""
    ladder = make_ladder(scheme, (options.depth_n,) * 3)
    chosen = (ladder[i] for i in work.evenly_spaced(len(ladder) - 1, count))
    return {each.name: each.skip_mask for each in chosen}


def compile_step(
    experiment: training.Experiment,
    skip_mask: SkipMask,
    devices: Sequence[jax.Device],
    seeds: Sequence[int] = (0,),
) -> jax.stages.Compiled:
    """Returns the compiled step of a skip mask for devices that need not be there.

    Args:
      experiment: its step and its shapes.
      skip_mask: static; True skips that block.
      devices: that share the batch, also those of a topology without hardware.
      seeds: of the runs that take it at once.
    """
    together = _together(experiment, devices, seeds)
    draw = training.single(skip_mask)
    arguments = together.shapes.keep(experiment.units(draw)), *_data(together)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), arguments
    )
    mapped: Any = together.mapped_step(draw, devices)
    return mapped.lower(*shapes).compile()


def _together(
    experiment: training.Experiment, devices: Sequence[jax.Device], seeds: Sequence[int]
) -> training.Together:
    """The runs as these devices want them, which need not be the default ones."""
    kernels = layout.preferred(devices[0], experiment.config.model.dtype)
    return training.Together([experiment.with_seed(seed) for seed in seeds], kernels)


def _data(together: training.Together) -> tuple:
    """What a step is given beside its state: order (as they lie), inputs, targets, key."""
    dataset, several = together.experiment.train, len(together.seeds) > 1
    order = np.arange(len(dataset), dtype=np.int32)
    orders = np.stack([order] * len(together.seeds)) if several else order
    return orders, dataset.rows, dataset.targets, together.key


class Ours:
    """A run in memory: the loop's compiled variants, one a skip mask."""

    def __init__(
        self,
        options: Options,
        overrides: Overrides | None = None,
        seeds: Sequence[int] = (0,),
        devices: Sequence[jax.Device] | None = None,
    ):
        """Makes the state and puts it and the data on the devices; compiles nothing.

        Args:
          options: the size of the work.
          overrides: as `make_experiment`.
          seeds: trained as one.
          devices: that share the batch; all where None.
        """
        self.options, self._devices = options, devices or jax.devices()
        self.experiment = make_experiment(options, overrides)
        self.together = _together(self.experiment, self._devices, seeds)
        state = self.together.arrange([run.init() for run in self.together.experiments])
        replicate = jax.pmap(lambda x, _: x, in_axes=(None, 0), devices=self._devices)
        on_devices = replicate((state, *_data(self.together)), np.zeros(len(self._devices)))
        self.state, *self._data = on_devices
        self.compiler_options = training.compiler_options()
        self.variants = training.Variants(self.step_of, self.compiler_options)

    def step_of(self, draw: training.Draw) -> tuple[Callable, tuple]:
        """Returns the mapped step of a draw, and what it is given."""
        return self.together.mapped_step(draw, self._devices), self._arguments(draw)

    def _arguments(self, draw: training.Draw) -> tuple:
        return self.state.keep(self.experiment.units(draw)), *self._data

    def drawn(self, steps: int) -> list[SkipMask]:
        """Returns the skip masks of the first steps, as the run draws them."""
        return [self.experiment.draw(step).skip_mask for step in range(steps)]

    def start(self, work_on: SkipMask | training.Draw) -> dict[str, jax.Array]:
        """Starts a step; returns its metrics, which are there when it is done."""
        draw = _draw(work_on)
        updated, metrics = self.variants(draw)(*self._arguments(draw))
        self.state = self.state.merge(updated)
        return metrics

    def train(self, work_on: Sequence[SkipMask | training.Draw]) -> float:
        """Takes a step of each skip mask or draw; returns the seconds until all are done."""
        started = time.perf_counter()
        metrics = [self.start(each) for each in work_on]
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - started

    def compile(self, work_on: Sequence[SkipMask | training.Draw], workers: int = 0) -> float:
        """Compiles steps, several at once (0: one a core); returns the seconds."""
        started = time.perf_counter()
        for _ in self.variants.compile_ahead(map(_draw, work_on), workers):
            pass
        return time.perf_counter() - started

    def draws(self, steps: int) -> list[training.Draw]:
        """Returns what the first steps work on, as the run draws it."""
        return [self.experiment.draw(step) for step in range(steps)]

    def temporary_bytes(self, draw: training.Draw) -> int:
        """Returns the memory that a step takes beside its state, as its compiler says."""
        return self.variants(draw).memory_analysis().temp_size_in_bytes  # type: ignore[attr-defined]

    def sweep_of(self, skip_masks: Sequence[SkipMask]) -> Callable[[], float]:
        """Returns a function that measures skip masks in one pass, and returns the seconds."""
        sweep = evaluation.Sweep(
            self.experiment.model,
            tuple(skip_masks),
            self.experiment.train,
            batch_size=self.options.sweep_batch_size,
            examples=self.options.sweep_examples,
            compiler_options=self.compiler_options,
        )

        def timed() -> float:
            variables = jax.block_until_ready(self.variables)
            started = time.perf_counter()
            np.asarray(sweep(variables).errors)
            return time.perf_counter() - started

        return timed

    @functools.cached_property
    def sweep(self) -> Callable[[], float]:
        """Measures every truncation in one pass; returns the seconds."""
        return self.sweep_of(self.experiment.ladder.skip_masks)

    @property
    def variables(self) -> dict[str, Any]:
        """What the model takes, of the first seed, replicated over the devices."""
        return self.together.split(self.state)[0].variables

    def peak_bytes(self) -> int:
        """Returns the most memory used: of the accelerator, else of this process."""
        device = jax.local_devices()[0]
        if device.platform != "cpu" and (stats := device.memory_stats()):
            return stats["peak_bytes_in_use"]
        return work.peak_process_bytes()

    def program(self) -> str:
        """Returns the text of the compiled full step."""
        return self.variants(training.single(self.options.full)).as_text()  # type: ignore[attr-defined]

    def hardware(self) -> str:
        """Returns how many devices of what kind it runs on."""
        return f"{len(self._devices)} x {self._devices[0].device_kind}"


def _draw(work_on: SkipMask | training.Draw) -> training.Draw:
    return work_on if isinstance(work_on, training.Draw) else training.single(work_on)
