"""From a config to the parts of an experiment, each made once."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import optax

from accordion_jax import data, models, tasks
from accordion_jax.depth import Ladder, Policy, make_ladder, make_policy, policy_fields
from accordion_jax.runs import config as config_lib
from accordion_jax.training import step as step_lib
from accordion_jax.training.heads import fit_heads
from accordion_jax.training.objective import (
    Draw,
    Objective,
    in_order_of_need,
    make_objective,
    objective_fields,
    objective_state,
)
from accordion_jax.training.optimizer import make_optimizer, make_schedule
from accordion_jax.training.pruning import prune
from accordion_jax.training.state import TrainState, Tree, example_spec, init_state, state_shapes
from accordion_jax.training.teacher import Teacher, teacher_of_run
from accordion_jax.training.trained import start_from, start_with
from accordion_jax.training.unfolding import unfold_norms
from accordion_jax.training.within import Within, stay_within, within

_log = logging.getLogger("accordion_jax")


class SentBits(Protocol):
    """What a bundle sends, or its first bits."""

    @property
    def bits(self) -> tuple[int, ...]:
        """Of a weight, step by step."""

    def up_to(self, bits: int, /) -> "SentBits":
        """Returns the steps up to that of these bits."""

    def levels(self) -> Mapping[str, Tree]:
        """Returns {"center": ..., "spacing": ...}: the level of each number, and to the next."""


class BundledModel(Protocol):
    """The network of a bundle."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What `models.build` takes."""

    @property
    def variables(self) -> Mapping[str, Tree]:
        """Of the full model."""

    @property
    def sent(self) -> SentBits:
        """What it sends."""


# Of another folder than a bundle's returns None.
BundleReader = Callable[[str], BundledModel | None]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of an experiment, as `make_experiment` made them from a config.

    Attributes:
      config: validated.
      task: of the data set, with its augmentation.
      model: Linen module.
      ladder: of the scheme.
      policy: over the ladder.
      objective: what a step minimises.
      train: the training split, without what is held out.
      optimizer: direction of descent of one unit's gradients, without learning rate.
      learning_rate: of a step.
      steps_per_epoch: whole batches in the training split.
      total_steps: of the run.
      read_bundle: for a run that begins with a bundle or learns from one; called when it is needed.
    """

    config: ml_collections.ConfigDict
    task: tasks.Task
    model: models.Network
    ladder: Ladder
    policy: Policy
    objective: Objective
    train: data.Dataset
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    steps_per_epoch: int
    total_steps: int
    read_bundle: BundleReader = lambda _: None

    def draw(self, step: int) -> Draw:
        """What a step works on: the one place from which all take it."""
        return self.objective(self.ladder, self.policy, self.depth_seed, step)

    def draws(self, steps: Iterable[int]) -> list[Draw]:
        """The draws of these steps, each once, in the order of need."""
        return in_order_of_need(self.draw, steps)

    def units(self, draw: Draw) -> tuple[str, ...]:
        """Names of the sub-trees that a step with this draw works on."""
        return models.kept_units(self.model, draw.skip_mask)

    @property
    def example(self) -> Any:
        """Shape and type of one prepared example, [1, ...], as `state.example_spec`."""
        return example_spec(self.task)

    @property
    def example_shape(self) -> Any:
        """Shape of one prepared example, or a tree of shapes: what `unit_macs` takes."""
        return jax.tree.map(lambda spec: spec.shape[1:], self.example)

    @property
    def key(self) -> jax.Array:
        """[2] uint32, data of the key of all that is random on the devices, from the seed."""
        return jax.random.key_data(jax.random.key(self.config.seed))

    def init(self) -> TrainState:
        """The state before the first step: a function of the seed, and of what it begins with.

        Raises:
          ValueError, FileNotFoundError, CheckpointError: as `trained.start_from`.
          Others: as `read_bundle`.
        """
        state = self._begun()
        if share := self.config.train.sparsity:
            params = prune(state.params, self.model.block_names, share)
            if within := self.within:
                # What is no zero in the bits that are out is none now, and heads stay.
                params = stay_within(params, **within.cells, bits=within.bits)
            state = state._replace(params=params)
        if self.config.train.fit_heads:
            key = jax.random.fold_in(jax.random.wrap_key_data(self.key), 5)
            variables = jax.device_get(state.variables)
            state = state._replace(
                params=fit_heads(self.model, variables, self.task, self.train, self.ladder, key)
            )
        return state

    def _begun(self) -> TrainState:
        """The state of a new network, or of what the run begins with."""
        key = jax.random.fold_in(jax.random.wrap_key_data(self.key), 0)
        state = init_state(self.model, self.optimizer, key, self.example)
        state = state._replace(objective=self.objective_state)
        before = self.config.train.start_from
        if not before:
            return state
        _log.info("begins with the weights of %s", before)
        if found := self.read_bundle(before):
            return self._unfolded(found.variables, state)
        return start_from(before, state, self.model)

    @functools.cached_property
    def within(self) -> Within | None:
        """Where ``config.train.within_bits`` lets the parameters go; None: anywhere.

        Raises:
          ValueError: what the run begins with is no bundle of so many bits; names it.
          Others: as `init`.
        """
        bits, source = self.config.train.within_bits, self.config.train.start_from
        if not bits:
            return None
        wanted = f"config.train.within_bits={bits} keeps the first bits of a bundle"
        found = self.read_bundle(source)
        if found is None:
            raise ValueError(
                f"{wanted}, and start_from={source!r} is none; cut one of it first: "
                f"python -m accordion_jax.bundle --workdir={source} --out=DIR --bits={bits}"
            )
        sent = found.sent
        if bits not in sent.bits:
            out = " then ".join(map(str, sent.bits))
            raise ValueError(
                f"{wanted}, and start_from={source!r} sends {out} bits; give one of these"
            )
        begun, bundled = jax.device_get(self._begun().params), found.variables["params"]
        paths = [
            {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
            for params in (bundled, begun)
        ]
        if paths[0] != paths[1]:
            raise ValueError(
                f"{wanted}, and start_from={source!r} has other arrays than this network (heads of "
                "its own?); give config.model.arguments the values of the bundle"
            )
        return within(sent.up_to(bits).levels(), bits, bundled, begun)

    @functools.cached_property
    def teacher(self) -> Teacher | None:
        """What ``config.train.teacher`` names, read when it is first asked for.

        Raises:
          ValueError, FileNotFoundError, CheckpointError: as `teacher_of_run` and `Teacher.check`.
          Others: as `read_bundle`.
        """
        source = self.config.train.teacher
        if not source:
            return None
        _log.info("learns from the answers of %s", source)
        if found := self.read_bundle(source):
            model = models.build(found.description, dtype=jnp.dtype(self.config.model.dtype))
            teacher = Teacher(model, found.variables)
        else:
            teacher = teacher_of_run(source)
        return teacher.check(self.model, self.example, source)

    def _unfolded(self, variables: Mapping[str, Tree], state: TrainState) -> TrainState:
        """A state with a bundle's variables, as training knows them: the same for every seed."""
        begun = start_with(variables, state, self.model, self.config.train.start_from)
        key = jax.random.key(0)
        fresh = init_state(self.model, self.optimizer, jax.random.fold_in(key, 0), self.example)
        key = jax.random.fold_in(key, 3)
        found = unfold_norms(self.model, begun.variables, self.task, self.train, key, fresh.params)
        return begun._replace(params=found["params"], batch_stats=found["batch_stats"])

    @property
    def shapes(self) -> TrainState:
        """Shapes and types of the state."""
        shapes = state_shapes(self.model, self.optimizer, self.example)
        return shapes._replace(objective=jax.eval_shape(lambda: self.objective_state))

    @property
    def objective_state(self) -> dict[str, Any]:
        """What the objective keeps from step to step, before the first."""
        return objective_state(self.config.objective.name, self.ladder)

    @property
    def step(self) -> Callable[..., Any]:
        """`step.train_step` with all that does not change in a run, but for draw and devices."""
        return functools.partial(
            step_lib.train_step,
            model=self.model,
            task=self.task,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            batch_size=self.config.train.batch_size,
            bits=tuple(self.config.train.bits),
            held=self.config.train.within_bits,
            sparse=self.config.train.sparsity > 0,
            teacher=self.teacher,
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
            "input": tasks.describe(self.task),
            "dataset": self.train.name,
            "scheme": self.ladder.scheme,
        }


def make_experiment(
    config: ml_collections.ConfigDict,
    devices: int = 1,
    *,
    read_bundle: BundleReader = lambda _: None,
) -> Experiment:
    """Returns the parts of an experiment.

    Args:
      config: as `config.default_config`.
      devices: that share a batch, over all processes.
      read_bundle: as in `Experiment`; without it, what a run begins with or learns from is a run.

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
    objective = make_objective(
        config.objective.name,
        outside=bool(config.train.teacher),
        **objective_arguments(config),
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
    ladder.subset(config.sweep.depths)  # refuses now what the sweep would after training
    if (bits := config.train.within_bits) and not ladder.has_prefixes_alone:
        raise ValueError(
            f"config.train.within_bits={bits} trains what a bundle of config.scheme="
            f"{config.scheme!r} cannot send: its configurations are no prefixes, and few bits have "
            "no norms of their own; wanted 'coml' or 'resnet'"
        )
    steps_per_epoch = len(train) // batch_size
    total_steps = config.train.steps or round(config.train.epochs * steps_per_epoch)
    return Experiment(
        config=config,
        task=_make_task(config, train.task),
        model=model,
        ladder=ladder,
        policy=_make_policy(config, ladder),
        objective=objective,
        train=train,
        optimizer=make_optimizer(config),
        learning_rate=make_schedule(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        read_bundle=read_bundle,
    )


def _make_task(config: ml_collections.ConfigDict, task: tasks.Task) -> tasks.Task:
    """The task of the data set, with the augmentation that the config asks for."""
    known = tasks.augmentation_fields(task)
    whose = f"{task.input_name} of {config.data.name}"
    return task.with_augmentation(**config_lib.own_fields(config, "data", known, whose))


def _make_model(
    config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None
) -> models.Network:
    arguments = {"num_classes": num_classes, **config_lib.to_jsonable(config.model.arguments)}
    return models.build(
        {"family": config.model.family, "arguments": arguments},
        dtype=jnp.dtype(config.model.dtype),
        axis_name=axis_name,
        scan_stages=config.run.scan_stages,
    )


def objective_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields of ``config.objective`` that belong to the objective it names."""
    name = config.objective.name
    return config_lib.own_fields(config, "objective", objective_fields(name), f"objective {name!r}")


def _make_policy(config: ml_collections.ConfigDict, ladder: Ladder) -> Policy:
    """The policy over a ladder; scheme ``resnet`` always trains the full model."""
    name = config.policy.name
    whose = f"policy {name!r}"
    fields = config_lib.own_fields(config, "policy", policy_fields(name), whose)
    if config.scheme == "resnet" and name == "full_or_uniform":
        fields["full_probability"] = 1.0
    return make_policy(name, ladder, fields)
