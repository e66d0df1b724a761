"""The training loop: draws a depth, runs its compiled step, keeps checkpoints and metrics."""

import collections
import contextlib
import functools
import logging
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from accordion_jax import data
from accordion_jax.depth import SkipMask, draw, first_drawn
from accordion_jax.training import step as step_lib
from accordion_jax.training.checkpoints import Checkpoints
from accordion_jax.training.experiment import CHECKPOINTS, Experiment
from accordion_jax.training.metrics import MetricWriter, progress
from accordion_jax.training.state import TrainState, Tree
from accordion_jax.training.variants import Variants, cpu_compiler_options

_log = logging.getLogger(__name__)

# Steps whose metrics are still on the device: the host reads those of older steps while the device
# works on these, and never waits for the newest.
_LAG = 2

# How many steps ahead are searched for the configurations to compile in the background.
_LOOK_AHEAD = 10_000

# Replicated variables -> name -> number; "error" chooses the best checkpoint.
Evaluate = Callable[[dict[str, Tree]], dict[str, float]]


class DivergedError(RuntimeError):
    """The loss was not finite."""


class Preempted(Exception):  # noqa: N818 - not an error
    """The process was told to stop, and saved first.

    Attributes:
      step: of the checkpoint from which the same command goes on.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}")
        self.step = step


def train(
    experiment: Experiment,
    workdir: str | os.PathLike,
    *,
    evaluate: Evaluate | None = None,
    eval_split: str = "test",
) -> TrainState:
    """Trains to the last step, from the latest checkpoint where there is one.

    Args:
      experiment: what to train.
      workdir: for checkpoints and metrics.
      evaluate: called every ``config.run.eval_every_epochs`` and at the end.
      eval_split: what it evaluates on, for the metrics.

    Returns:
      The final state, replicated over the local devices.

    Raises:
      DivergedError: a loss was not finite; names the step and the last good checkpoint.
      Preempted: SIGTERM or SIGINT came; the state has been saved.
      CheckpointError: the latest checkpoint cannot be restored.
    """
    workdir = pathlib.Path(workdir)
    first = jax.process_index() == 0
    checkpoints = Checkpoints(workdir / CHECKPOINTS, experiment.config.run.keep_checkpoints)
    with contextlib.closing(checkpoints), _Stop() as stop:
        step = checkpoints.latest or 0
        if step:
            state = data.replicate(checkpoints.restore(step, experiment.shapes))
            _log.info("goes on from step %d of %d", step, experiment.total_steps)
        else:
            state = data.replicate(experiment.init())
        if step >= experiment.total_steps:
            return state
        writer = MetricWriter(workdir, step, enabled=first)
        with contextlib.closing(writer):
            loop = _Loop(experiment, checkpoints, writer, evaluate, eval_split, stop)
            return loop.run(state, step)


class _Loop:
    """One call of `train`: what the steps share."""

    def __init__(self, experiment, checkpoints, writer, evaluate, eval_split, stop):
        self.experiment: Experiment = experiment
        self.checkpoints: Checkpoints = checkpoints
        self.writer: MetricWriter = writer
        self.evaluate: Evaluate | None = evaluate
        self.eval_split: str = eval_split
        self.stop: _Stop = stop
        self.units = {mask: experiment.units(mask) for mask in experiment.ladder.skip_masks}
        self.images, self.labels = data.replicate((experiment.train.rows, experiment.train.labels))
        self.epoch_order = experiment.mapped_epoch_order()
        self.first = jax.process_index() == 0

    def run(self, state: TrainState, step: int) -> TrainState:
        """Trains from `step` to the end."""
        experiment = self.experiment
        order = self.epoch_order(state.step)
        # A copy to compile for: a step is given the state itself, which is gone after it. With
        # several processes pmap takes no shapes in place of arrays.
        copy = jax.pmap(lambda tree: jax.tree.map(jnp.copy, tree), axis_name=step_lib.AXIS)
        like = data.to_global(copy(state))
        variants = Variants(
            functools.partial(self._step_of, like=like, order=order), cpu_compiler_options()
        )
        fields = experiment.config.run
        if fields.compile == "ahead":
            self._compile_ahead(variants)
        elif fields.compile == "background":
            needed = first_drawn(
                experiment.policy,
                seed=experiment.config.seed,
                start=step,
                stop=min(experiment.total_steps, step + _LOOK_AHEAD),
            )
            masks = [experiment.ladder[index].skip_mask for index in needed]
            variants.compile_in_background(masks, fields.compile_workers)
        with contextlib.closing(variants):
            return self._steps(state, step, order, variants)

    def _steps(
        self, state: TrainState, step: int, order: jax.Array, variants: Variants
    ) -> TrainState:
        """The steps themselves."""
        experiment = self.experiment
        total, per_epoch = experiment.total_steps, experiment.steps_per_epoch
        window = _Window(self, step)
        with progress(
            experiment.config.name,
            total,
            step,
            scale=experiment.config.train.batch_size,
            enabled=self.first,
        ) as bar:
            while step < total:
                chosen = experiment.ladder[
                    draw(experiment.policy, seed=experiment.config.seed, step=step)
                ]
                run = variants(chosen.skip_mask)
                kept = state.keep(self.units[chosen.skip_mask])
                updated, metrics = run(kept, order, self.images, self.labels)
                state, step = state.merge(updated), step + 1
                window.add(step, chosen.depth, metrics)
                shown = {"epoch": f"{step / per_epoch:.1f}", "loss": window.shown}
                bar.update(step, **shown)
                if step % per_epoch == 0:
                    order = self.epoch_order(state.step)
                stopping = self.stop.reached(step)
                if stopping or step == total or step % self._checkpoint_every == 0:
                    window.drain()
                    metrics = None if stopping else self._evaluate(state, step)
                    self.checkpoints.save(step, data.unreplicate(state), metrics)
                if stopping and step < total:
                    self.checkpoints.wait()
                    raise Preempted(step)
        self.checkpoints.wait()
        return state

    @property
    def _checkpoint_every(self) -> int:
        """Steps."""
        fields = self.experiment.config.run
        by_epoch = round(fields.checkpoint_every_epochs * self.experiment.steps_per_epoch)
        return fields.checkpoint_every_steps or max(1, by_epoch)

    def _step_of(self, skip_mask: SkipMask, like: TrainState, order: jax.Array):
        """The mapped step of a configuration, and arguments to compile it for."""
        kept = like.keep(self.units[skip_mask])
        return self.experiment.mapped_step(skip_mask), (kept, order, self.images, self.labels)

    def _compile_ahead(self, variants: Variants) -> None:
        ladder = self.experiment.ladder
        masks = [ladder[index].skip_mask for index in self.experiment.policy.drawn]
        workers = self.experiment.config.run.compile_workers
        with progress("compiling", len(masks), unit="variant", enabled=self.first) as bar:
            for done, _ in enumerate(variants.compile_ahead(masks, workers), 1):
                bar.update(done)

    def _evaluate(self, state: TrainState, step: int) -> dict[str, float] | None:
        """Metrics for the checkpoint of this step, where it is one to evaluate."""
        fields = self.experiment.config.run
        every = round(fields.eval_every_epochs * self.experiment.steps_per_epoch)
        # The checkpoint at or after each multiple of `every`, so the two need not divide.
        before = max(0, step - self._checkpoint_every)
        due = every and step // every > before // every
        total = self.experiment.total_steps
        last = every and step == total >= every  # a short trial is swept anyway
        if self.evaluate is None or not (due or last):
            return None
        metrics = self.evaluate(state.variables)
        self.writer.write(step, self.eval_split, metrics)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        _log.info("step %d, %s: %s", step, self.eval_split, shown)
        return metrics


class _Window:
    """Metrics of the steps since the last record, read a few steps late."""

    def __init__(self, loop: _Loop, step: int):
        self._loop, self.shown = loop, "-"
        self._pending: collections.deque = collections.deque()
        self._read: list[tuple[float, float, int]] = []
        self._since, self._first_step = time.monotonic(), step

    def add(self, step: int, depth: int, metrics: step_lib.Metrics) -> None:
        """Queues the metrics of a step, and reads those of an older one."""
        self._pending.append((step, depth, metrics))
        if len(self._pending) > _LAG:
            self._take()

    def drain(self) -> None:
        """Reads what is queued: after it, every step so far had a finite loss."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        step, depth, metrics = self._pending.popleft()
        loss, error = (float(data.unreplicate(metrics[name])) for name in ("loss", "error"))
        if not math.isfinite(loss):
            last = self._loop.checkpoints.latest
            good = (
                f"the last good checkpoint is {self._loop.checkpoints.folder / str(last)}"
                if last is not None
                else "there is no checkpoint before it"
            )
            raise DivergedError(
                f"the loss of step {step} ({depth} blocks) is {loss}; {good}. Lower "
                "config.optimizer.learning_rate or set config.optimizer.warmup_epochs, and use "
                "another --workdir"
            )
        self._read.append((loss, error, depth))
        self.shown = f"{loss:.3f}"
        experiment = self._loop.experiment
        every = experiment.config.run.log_every_steps
        if step % every and step != experiment.total_steps:
            return
        now = time.monotonic()
        losses, errors, depths = np.array(self._read).T
        self._loop.writer.write(
            step,
            "train",
            {
                "epoch": step / experiment.steps_per_epoch,
                "loss": float(losses.mean()),
                "error": float(errors.mean()),
                "mean_depth": float(depths.mean()),
                "learning_rate": float(experiment.learning_rate(step - 1)),
                "images_per_second": (
                    (step - self._first_step)
                    * experiment.config.train.batch_size
                    / max(now - self._since, 1e-9)
                ),
            },
        )
        self._read, self._since, self._first_step = [], now, step


class _Stop:
    """Notices SIGTERM and SIGINT, so that the state is saved before the process ends.

    With several processes JAX's own preemption service agrees on the step at which all stop.
    """

    def __init__(self):
        self._asked = False
        self._old = {}

    def __enter__(self) -> "_Stop":
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(ValueError):  # not in the main thread
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        _log.info("%s: saves at the end of this step, then stops", signal.Signals(number).name)

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; the same on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
