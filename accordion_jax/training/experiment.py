"""From a config to the parts of an experiment, each made once; and back from a workdir to a run."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from accordion_jax import data, models
from accordion_jax.depth import Ladder, Policy, full_or_uniform, make_ladder
from accordion_jax.runs import config as config_lib
from accordion_jax.runs.folder import CHECKPOINTS, CONFIG_FILE, MODEL_FILE
from accordion_jax.system.files import write_json
from accordion_jax.training import step as step_lib
from accordion_jax.training.checkpoints import CheckpointError, Checkpoints
from accordion_jax.training.state import TrainState, Tree, init_state, state_shapes

_VERSIONS = ("accordion_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of an experiment, as `make_experiment` made them from a config.

    Attributes:
      config: validated.
      model: Linen module.
      ladder: of the scheme.
      policy: over the ladder.
      train: the training split, without what is held out.
      optimizer: direction of descent of one unit's gradients, without learning rate.
      learning_rate: of a step.
      steps_per_epoch: whole batches in the training split.
      total_steps: of the run.
    """

    config: ml_collections.ConfigDict
    model: models.ResNet
    ladder: Ladder
    policy: Policy
    train: data.Dataset
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    steps_per_epoch: int
    total_steps: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, colours)."""
        height, width, colours = self.train.images.shape[1:]
        return height, width, colours

    @property
    def augmentation(self) -> step_lib.Augmentation:
        """What is done to an image before the network sees it."""
        fields = self.config.data
        return step_lib.Augmentation(fields.pad, fields.flip, self.train.mean, self.train.std)

    def units(self, skip_mask: tuple[bool, ...]) -> tuple[str, ...]:
        """Names of the sub-trees that a step with this mask works on."""
        return kept_units(self.model, skip_mask)

    @property
    def key(self) -> jax.Array:
        """[2] uint32, data of the key of all that is random on the devices, from the seed."""
        return jax.random.key_data(jax.random.key(self.config.seed))

    def init(self) -> TrainState:
        """The state before the first step, a function of the seed."""
        key = jax.random.fold_in(jax.random.wrap_key_data(self.key), 0)
        return init_state(self.model, self.optimizer, key, self.image_shape)

    @property
    def shapes(self) -> TrainState:
        """Shapes and types of the state."""
        return state_shapes(self.model, self.optimizer, self.image_shape)

    @property
    def step(self) -> Callable[..., Any]:
        """`step.train_step` with all that does not change in a run, but for mask and devices."""
        return functools.partial(
            step_lib.train_step,
            model=self.model,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            augmentation=self.augmentation,
            image_shape=self.image_shape,
            batch_size=self.config.train.batch_size,
        )

    @property
    def epoch_order(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """`step.epoch_order` of a step's number and the key."""
        return functools.partial(
            step_lib.epoch_order, steps_per_epoch=self.steps_per_epoch, examples=len(self.train)
        )

    @property
    def depth_seed(self) -> int:
        """Of the draws of depths."""
        chosen = self.config.policy.seed
        return self.config.seed if chosen < 0 else chosen

    def with_seed(self, seed: int) -> "Experiment":
        """Returns this experiment with another seed; everything else is shared."""
        config = self.config.copy_and_resolve_references()
        config.seed = seed
        config_lib.validate(config)
        return dataclasses.replace(self, config=config)

    @property
    def description(self) -> dict[str, Any]:
        """What is needed to rebuild the network and feed it, as JSON-able values."""
        return models.describe(self.model) | {
            "input": {
                "shape": list(self.image_shape),
                "mean": list(self.train.mean),
                "std": list(self.train.std),
            },
            "dataset": self.train.name,
            "scheme": self.ladder.scheme,
        }


def kept_units(model: models.ResNet, skip_mask: tuple[bool, ...]) -> tuple[str, ...]:
    """Returns the names of the units that a skip mask keeps: the base and the kept blocks."""
    kept = (name for name, skip in zip(model.block_names, skip_mask, strict=True) if not skip)
    return (*model.base_names, *kept)


def make_experiment(config: ml_collections.ConfigDict, devices: int = 1) -> Experiment:
    """Returns the parts of an experiment.

    Args:
      config: as `config.default_config`.
      devices: that share a batch, over all processes.

    Raises:
      ValueError: a field's value is refused; names it and what is wanted.
    """
    config_lib.validate(config)
    batch_size = config.train.batch_size
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = f"{below}, {above}" if below else f"{above}"
        raise ValueError(
            f"config.train.batch_size={batch_size} is not divisible by {devices} devices; "
            f"nearest: {nearest}"
        )
    train = data.load(
        config.data.name, "train", data_dir=config.data.dir or None, holdout=config.data.holdout
    )
    if batch_size > len(train):
        raise ValueError(
            f"config.train.batch_size={batch_size} is more than the {len(train)} training examples "
            f"of {config.data.name!r}"
        )
    axis_name = step_lib.AXIS if config.model.cross_replica_batch_norm else None
    model = _make_model(config, train.num_classes, axis_name)
    ladder = make_ladder(config.scheme, model.stage_sizes)
    steps_per_epoch = len(train) // batch_size
    total_steps = config.train.steps or round(config.train.epochs * steps_per_epoch)
    return Experiment(
        config=config,
        model=model,
        ladder=ladder,
        policy=_make_policy(config, ladder),
        train=train,
        optimizer=_make_optimizer(config),
        learning_rate=_make_schedule(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


def _make_model(
    config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None
) -> models.ResNet:
    arguments = {
        "num_classes": num_classes,
        "stage_sizes": config.model.stage_sizes,
        "channels": config.model.channels,
    }
    return models.build(
        {"family": config.model.family, "arguments": arguments},
        dtype=jnp.dtype(config.model.dtype),
        axis_name=axis_name,
        scan_stages=config.run.scan_stages,
    )


def _make_policy(config: ml_collections.ConfigDict, ladder: Ladder) -> Policy:
    """The policy over a ladder; scheme ``resnet`` always trains the full model."""
    if config.policy.probabilities:
        if len(config.policy.probabilities) != len(ladder):
            raise ValueError(
                f"config.policy.probabilities has {len(config.policy.probabilities)} entries; the "
                f"ladder of scheme {config.scheme!r} has {len(ladder)} configurations, the base "
                "alone first"
            )
        return Policy(tuple(map(float, config.policy.probabilities)))
    full = 1.0 if config.scheme == "resnet" else config.policy.full_probability
    return full_or_uniform(ladder, full, config.policy.min_depth)


def _make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """SGD with momentum and weight decay on every parameter, as He et al. 2016, section 3.4."""
    fields = config.optimizer
    return optax.chain(
        optax.add_decayed_weights(fields.weight_decay),
        optax.trace(fields.momentum, nesterov=fields.nesterov),
    )


def _make_schedule(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Callable[[Any], Any]:
    fields = config.optimizer
    warmup = round(fields.warmup_epochs * steps_per_epoch)
    if fields.schedule == "cosine":
        total = max(round(config.train.epochs * steps_per_epoch), warmup + 1)
        return optax.warmup_cosine_decay_schedule(0.0, fields.learning_rate, warmup, total)
    bounds = {round(e * steps_per_epoch): fields.decay_factor for e in fields.decay_epochs}
    steps = optax.piecewise_constant_schedule(fields.learning_rate, bounds)
    ramp = optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return lambda step: steps(step) * ramp(step)


def versions() -> dict[str, str]:
    """Returns the versions and the hardware that a run was made with."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    devices = jax.devices()
    return found | {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "platform": platform.platform(),
        "cpu_cores": str(os.cpu_count()),
    }


def provenance(experiment: Experiment, step: int) -> dict[str, Any]:
    """Returns what a table says of the run it was measured on, as JSON-able values.

    Args:
      experiment: of the run.
      step: of the checkpoint that was measured.
    """
    config = experiment.config
    return {
        "name": config_lib.run_name(config),
        "scheme": config.scheme,
        "full_probability": config.policy.full_probability,
        "dataset": config.data.name,
        "split": config.sweep.split,
        "seed": config.seed,
        "step": step,
        "total_steps": experiment.total_steps,
        "precision": "float32",  # of the parameters: what size_bytes counts
        "config": config_lib.to_jsonable(config),
        "versions": versions(),
    }


def claim_workdir(workdir: str | os.PathLike, experiment: Experiment, *, write: bool) -> None:
    """Writes the resolved config and the network's description, or checks those that are there.

    Args:
      workdir: of the run; made where it does not exist.
      experiment: that wants it.
      write: False only checks, as on all processes but the first.

    Raises:
      ValueError: another experiment ran there; names each field that differs.
    """
    workdir = pathlib.Path(workdir)
    asked = config_lib.to_jsonable(experiment.config)
    path = workdir / CONFIG_FILE
    if path.exists():
        differing = config_lib.differences(_read_json(path)["config"], asked)
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another experiment; it differs in\n  "
                + "\n  ".join(differing)
                + "\nUse the old values, or another --workdir."
            )
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, {"config": asked, "versions": versions()})
        write_json(workdir / MODEL_FILE, experiment.description)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, read back from its workdir.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays, one sub-tree a unit.
      model: Linen module.
      description: what `models.build` needs, and the input's shape, mean and std.
      ladder: of its scheme.
      step: of the checkpoint.
      config: as it was resolved.
    """

    variables: dict[str, Tree]
    model: models.ResNet
    description: dict[str, Any]
    ladder: Ladder
    step: int
    config: ml_collections.ConfigDict


def load_run(workdir: str | os.PathLike, which: str = "latest") -> Run:
    """Returns the run of a workdir, its data set not needed.

    Args:
      workdir: of a run of `accordion_jax.main`.
      which: checkpoint, "latest" or "best".

    Raises:
      FileNotFoundError: the workdir has no run; names the file that is missing.
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    workdir = pathlib.Path(workdir)
    config = config_lib.from_jsonable(_read_json(workdir / CONFIG_FILE)["config"])
    description = _read_json(workdir / MODEL_FILE)
    model = models.build(description, dtype=jnp.dtype(config.model.dtype))
    ladder = make_ladder(config.scheme, model.stage_sizes)
    image_shape = tuple(description["input"]["shape"])
    like = state_shapes(model, _make_optimizer(config), image_shape)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, read_only=True)
    try:
        step = checkpoints.best if which == "best" else checkpoints.latest
        if step is None:
            raise CheckpointError(f"{workdir} has no {which} checkpoint yet; train it first")
        state = checkpoints.restore(step, like)
    finally:
        checkpoints.close()
    return Run(state.variables, model, description, ladder, step, config)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; python -m accordion_jax.main --workdir={path.parent} makes it"
        )
    return json.loads(path.read_text(encoding="utf-8"))
