"""Trains and measures a network in any form on one device, with a teacher beside it.

The data lie on the device; a step takes its images there by its number. Learning rate, length, and
share of the teacher are arguments of the step, not constants, so that rivals of one form share a
program.
"""

import concurrent.futures
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax import data, models, tasks
from accordion_jax.training import compiler_options
from accordion_jax.training.step import epoch_order
from benchmarks.compositions.forms import Flat, flatten, unflatten

_log = logging.getLogger("accordion_jax")

MOMENTUM = 0.9
# Batches of this size take a rival's learning rate; others one in proportion (Goyal et al. 2017,
# arXiv:1706.02677).
RATED_BATCH = 128


class State(NamedTuple):
    """What a step changes.

    Attributes:
      step: [] int32.
      params: of the form.
      statistics: running ones of the network.
      momentum: one array a parameter.
    """

    step: jax.Array
    params: Flat
    statistics: Flat
    momentum: Flat


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One training: a linear warm-up, then a cosine to zero; SGD with Nesterov's momentum.

    Attributes:
      learning_rate: the largest, for a batch of 128.
      epochs: of the training images.
      warmup_share: of all steps.
      weight_decay: on kernels; scales and biases have none.
      distillation: share of the teacher's soft labels in the loss.
      temperature: of these.
    """

    learning_rate: float
    epochs: float
    warmup_share: float
    weight_decay: float
    distillation: float
    temperature: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rivals have in common.

    Attributes:
      train: images to train on.
      task: of these, with its augmentation.
      teacher: network whose answers are learnt.
      teacher_variables: of it.
      batch_size: images a step.
      seed: of order, augmentation and first weights.
    """

    train: data.Dataset
    task: tasks.Task
    teacher: models.Network
    teacher_variables: Mapping[str, Any]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches."""
        return len(self.train) // self.batch_size


def rate_at(step: jax.Array, hyper: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the learning rate of a step, [] float32.

    Args:
      step: [] int32.
      hyper: ``rate``, ``warmup`` and ``total`` steps, [] float32 each.
    """
    now = step.astype(jnp.float32)
    done = (now - hyper["warmup"]) / jnp.maximum(hyper["total"] - hyper["warmup"], 1.0)
    cosine = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0))
    ramp = jnp.minimum((now + 1) / jnp.maximum(hyper["warmup"], 1.0), 1.0)
    return hyper["rate"] * cosine * ramp


def train_step(
    state: State,
    fixed: Flat,
    hyper: Mapping[str, jax.Array],
    order: jax.Array,
    rows: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    teacher_variables: Mapping[str, Any],
    *,
    model: models.Network,
    network: Callable[[Flat, Flat], Flat],
    teacher: models.Network,
    task: tasks.Task,
    batch_size: int,
) -> tuple[State, jax.Array]:
    """Returns the state after one step, and the loss of it.

    Args:
      state: before it.
      fixed: of the form.
      hyper: of `rate_at`; and ``decay``, ``distillation``, ``temperature``.
      order: [examples] int32, of this epoch.
      rows: [examples, numbers], as `Dataset.rows`.
      targets: [examples] int32.
      key: [2] uint32, data of the key.
      teacher_variables: of the teacher.
      model: static; that is trained.
      network: static; of the form.
      teacher: static.
      task: static.
      batch_size: static.
    """
    steps_per_epoch = targets.shape[0] // batch_size
    start = state.step % steps_per_epoch * batch_size
    picked = jax.lax.dynamic_slice(order, (start,), (batch_size,))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), state.step), 2)
    images = rows[picked].reshape(batch_size, *task.inputs.shape)
    images = task.prepare(task.augment(images, task.draw(key, batch_size)))
    answers, share = targets[picked], hyper["distillation"]
    soft = jax.lax.stop_gradient(teacher.apply(teacher_variables, images))

    def loss_of(params: Flat) -> tuple[jax.Array, Any]:
        variables = {
            "params": unflatten(network(params, fixed)),
            "batch_stats": unflatten(state.statistics),
        }
        outputs, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        right = task.loss(outputs, answers).mean()
        temperature: Any = hyper["temperature"]
        taught = task.distillation_loss(outputs, soft, temperature).mean()
        return (1 - share) * right + share * taught, flatten(updated["batch_stats"])

    (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    rate = rate_at(state.step, hyper)
    params, momentum = {}, {}
    for path, old in state.params.items():
        gradient = gradients[path] + (hyper["decay"] * old if old.ndim > 1 else 0.0)
        momentum[path] = MOMENTUM * state.momentum[path] + gradient
        params[path] = old - rate * (MOMENTUM * momentum[path] + gradient)
    return State(state.step + 1, params, statistics, momentum), loss


class Trainer:
    """Trains rivals of one setting, each program compiled once."""

    def __init__(self, setting: Setting):
        """Puts the data on the device."""
        self.setting = setting
        self._data = jax.device_put((setting.train.rows, setting.train.targets))
        self._key = jax.random.key_data(jax.random.key(setting.seed))
        self._teacher = jax.device_put(dict(setting.teacher_variables))
        self._compiled: dict[Any, Any] = {}
        examples = len(setting.train)
        self._order = jax.jit(
            functools.partial(
                epoch_order, steps_per_epoch=setting.steps_per_epoch, examples=examples
            )
        )

    def compile(
        self,
        wanted: Sequence[tuple[models.Network, Any, Flat, Flat, Flat]],
        beside: Sequence[Callable[[], object]] = (),
    ) -> None:
        """Compiles steps at once; XLA does so outside the interpreter's lock: threads suffice.

        Args:
          wanted: (model, network of the form, params, fixed, statistics) each.
          beside: other work that compiles, done at the same time.
        """
        distinct = {self._program(*each): each for each in wanted}
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = {name: pool.submit(self._compile, *each) for name, each in distinct.items()}
            others = [pool.submit(each) for each in beside]
        for name, future in futures.items():
            self._compiled[name] = future.result()
        for other in others:
            other.result()

    def seconds_a_step(
        self, model: models.Network, network: Any, params: Flat, fixed: Flat, statistics: Flat
    ) -> float:
        """Returns how long a step takes, over a few of them; nothing is trained."""
        step = self._compiled[self._program(model, network, params, fixed, statistics)]
        state, arguments = self._arguments(params, fixed, statistics, _NO_SCHEDULE, 2)
        state, _ = step(state, *arguments)
        jax.block_until_ready(state)
        count = 20 if jax.default_backend() == "gpu" else 1
        started = time.perf_counter()
        for _ in range(count):
            state, _ = step(state, *arguments)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / count

    def fit(
        self,
        model: models.Network,
        network: Any,
        params: Flat,
        fixed: Flat,
        statistics: Flat,
        schedule: Schedule,
    ) -> tuple[Flat, Flat, float]:
        """Returns parameters and statistics after training, and the loss of its last step.

        Args:
          model: to train.
          network: of its form.
          params: of the form, before training; unchanged.
          fixed: of the form.
          statistics: of the network, before training.
          schedule: of it.
        """
        program = self._program(model, network, params, fixed, statistics)
        if program not in self._compiled:
            self.compile([(model, network, params, fixed, statistics)])
        step = self._compiled[program]
        per_epoch = self.setting.steps_per_epoch
        total = max(1, round(schedule.epochs * per_epoch))
        state, arguments = self._arguments(params, fixed, statistics, schedule, total)
        fixed_, hyper, order, *rest = arguments
        loss = np.float32(np.nan)
        for number in range(total):
            if number % per_epoch == 0 and number:
                jax.block_until_ready(loss)  # so that no more than an epoch is queued
                order = self._order(state.step, self._key)
            state, loss = step(state, fixed_, hyper, order, *rest)
        found = jax.tree.map(np.asarray, (dict(state.params), dict(state.statistics), loss))
        return found[0], found[1], float(found[2])

    def _arguments(
        self, params: Flat, fixed: Flat, statistics: Flat, schedule: Schedule, total: int
    ) -> tuple[State, tuple]:
        # Copies: a step is given its state away.
        state = jax.device_put(
            State(
                np.int32(0),  # type: ignore[arg-type]
                {path: np.array(x) for path, x in params.items()},
                {path: np.array(x) for path, x in statistics.items()},
                {path: np.zeros(x.shape, np.float32) for path, x in params.items()},
            )
        )
        warmup = schedule.warmup_share * total
        hyper = {
            "rate": schedule.learning_rate * self.setting.batch_size / RATED_BATCH,
            "warmup": warmup,
            "total": total,
            "decay": schedule.weight_decay,
            "distillation": schedule.distillation,
            "temperature": schedule.temperature,
        }
        on_device = jax.device_put(
            (dict(fixed), {name: np.float32(value) for name, value in hyper.items()})
        )
        order = self._order(state.step, self._key)
        return state, (*on_device, order, *self._data, self._key, self._teacher)

    def _program(
        self, model: models.Network, network: Any, params: Flat, fixed: Flat, statistics: Flat
    ) -> Any:
        """What tells one program from another."""
        shapes = (
            tuple((path, x.shape) for path, x in sorted(flat.items()))
            for flat in (params, fixed, statistics)
        )
        return model, network, *shapes

    def _compile(
        self, model: models.Network, network: Any, params: Flat, fixed: Flat, statistics: Flat
    ) -> Any:
        setting = self.setting
        step = functools.partial(
            train_step,
            model=model,
            network=network,
            teacher=setting.teacher,
            task=setting.task,
            batch_size=setting.batch_size,
        )
        state, arguments = self._arguments(params, fixed, statistics, _NO_SCHEDULE, 2)
        lowered = jax.jit(step, donate_argnums=0).lower(state, *arguments)
        return lowered.compile(compiler_options=compiler_options() or None)


_NO_SCHEDULE = Schedule(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


class Judge:
    """Counts the wrong answers of networks on one data set.

    Attributes:
      task: of the data set.
      examples: how many there are.
      targets: [examples] int32.
    """

    def __init__(self, dataset: data.Dataset, task: tasks.Task, batch_size: int = 500):
        """Puts the data on the device.

        Args:
          dataset: to measure on.
          task: of it.
          batch_size: images at once.
        """
        self.examples = len(dataset)
        self._size = min(batch_size, self.examples)
        self._rows, self.targets = jax.device_put(dataset.rows), dataset.targets
        self.task = task
        self._programs: dict[Any, Callable] = {}

    def __call__(self, model: models.Network, variables: Mapping[str, Any]) -> int:
        """Returns how many answers are wrong."""
        return int(np.sum(self.wrong(self.outputs(model, variables))))

    def wrong(self, outputs: np.ndarray) -> np.ndarray:
        """Returns [..., examples] bool, whether each answer is wrong.

        Args:
          outputs: [..., examples, classes].
        """
        return np.asarray(self.task.wrong(outputs, self.targets))

    def outputs(
        self,
        model: models.Network,
        variables: Mapping[str, Any],
        skip_masks: tuple[tuple[bool, ...], ...] = (),
    ) -> np.ndarray:
        """Returns what a network answers, float32: [examples, classes], on the host.

        Args:
          model: static.
          variables: of it.
          skip_masks: static; if there are any, [masks, examples, classes].
        """
        on_device = jax.device_put(dict(variables))
        program = self._programs.get((model, skip_masks))
        if program is None:
            answer = jax.jit(functools.partial(self._answer, model, skip_masks))
            lowered = answer.lower(on_device, self._rows, jnp.int32(0))
            program = lowered.compile(compiler_options=compiler_options() or None)
            self._programs[model, skip_masks] = program
        found = []
        for start in range(0, self.examples, self._size):
            # The last batch begins early where it would not be full.
            first = min(start, self.examples - self._size)
            answers = program(on_device, self._rows, jnp.int32(first))
            found.append(answers[..., start - first :, :])
        return np.concatenate([np.asarray(each) for each in found], axis=-2)

    def _answer(
        self,
        model: models.Network,
        skip_masks: tuple[tuple[bool, ...], ...],
        variables: Any,
        rows: jax.Array,
        first: jax.Array,
    ) -> jax.Array:
        taken = jax.lax.dynamic_slice_in_dim(rows, first, self._size)
        images = self.task.prepare(taken.reshape(self._size, *self.task.inputs.shape))
        if skip_masks:
            return model.apply(variables, images, skip_masks=skip_masks, method="truncations")
        return model.apply(variables, images)
