"""The training loop: runs the compiled step of each draw, keeps checkpoints and metrics."""

import contextlib
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from accordion_jax import data
from accordion_jax.runs.folder import CHECKPOINTS
from accordion_jax.runs.reporting import Reporter
from accordion_jax.system.progress import progress
from accordion_jax.training import step as step_lib
from accordion_jax.training.checkpoints import Checkpoints, saying_what_is_saved
from accordion_jax.training.experiment import Experiment
from accordion_jax.training.metrics import MetricWriter
from accordion_jax.training.objective import Draw
from accordion_jax.training.state import TrainState, Tree
from accordion_jax.training.stop import Stop
from accordion_jax.training.together import Together
from accordion_jax.training.variants import Variants, compiler_options
from accordion_jax.training.window import Window

_log = logging.getLogger(__name__)

# How many steps ahead are searched for what to compile in the background.
_LOOK_AHEAD = 10_000

# Replicated variables -> name -> number; "error" chooses the best checkpoint.
Evaluate = Callable[[dict[str, Tree]], dict[str, float]]


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
      DivergedError: a loss or a weight was not finite; names the step and the last good checkpoint.
      Preempted: SIGTERM or SIGINT came; the state has been saved.
      CheckpointError: the latest checkpoint cannot be restored.
      NoRoomError: the disk is full; says from which step the same command goes on.
    """
    together = Together([experiment])
    return train_together(together, [workdir], evaluate=evaluate, eval_split=eval_split)[0]


def train_together(
    together: Together,
    workdirs: Sequence[str | os.PathLike],
    *,
    evaluate: Evaluate | None = None,
    eval_split: str = "test",
) -> list[TrainState]:
    """Trains runs that differ in their seed alone as one: each step is one program over all.

    Small networks leave a large accelerator idle; several seeds fill it. Each run has its own
    workdir, which is that of a run trained alone: it can be resumed alone, and a run begun alone
    can be resumed here.

    Args:
      together: the runs.
      workdirs: one a run.
      evaluate: as in `train`, called for each.
      eval_split: as in `train`.

    Returns:
      The final states, replicated over the local devices.

    Raises:
      DivergedError, Preempted, CheckpointError, NoRoomError: as `train`.
    """
    first = jax.process_index() == 0
    keep = together.experiment.config.run.keep_checkpoints
    checkpoints: list[Checkpoints] = []
    with saying_what_is_saved(checkpoints), contextlib.ExitStack() as stack:
        checkpoints += [
            stack.enter_context(
                contextlib.closing(Checkpoints(pathlib.Path(each) / CHECKPOINTS, keep))
            )
            for each in workdirs
        ]
        stop = stack.enter_context(Stop())
        # The newest step that every run has: one killed between two saves lacks the last.
        step = max(set.intersection(*(set(each.steps) for each in checkpoints)), default=0)
        total = together.experiment.total_steps
        if step:
            shapes = together.experiment.shapes
            states = [each.restore(step, shapes) for each in checkpoints]
            _log.info("goes on from step %d of %d", step, total)
        else:
            states = [each.init() for each in together.experiments]
        state = together.place(states)
        batch_size = together.experiment.config.train.batch_size
        reporter = Reporter(workdirs, total, batch_size=batch_size, enabled=first)
        reporter.update(step, saved=lambda: [each.saved for each in checkpoints], now=True)
        if step < total:
            writers = [
                stack.enter_context(contextlib.closing(MetricWriter(each, step, enabled=first)))
                for each in workdirs
            ]
            loop = _Loop(together, checkpoints, writers, reporter, evaluate, eval_split, stop)
            state = loop.run(state, step)
        elif not step:  # a run of no steps is what it begins with
            for each, begun in zip(checkpoints, together.fetch(state), strict=True):
                each.save(0, begun)
                each.wait()
        return together.split(state)


class _Loop:
    """One call of `train_together`: what the steps share."""

    def __init__(self, together, checkpoints, writers, reporter, evaluate, eval_split, stop):
        self.together: Together = together
        self.experiment: Experiment = together.experiment
        self.checkpoints: list[Checkpoints] = checkpoints
        self.writers: list[MetricWriter] = writers
        self.reporter: Reporter = reporter
        self.evaluate: Evaluate | None = evaluate
        self.eval_split: str = eval_split
        self.stop: Stop = stop
        experiment = self.experiment
        self.units = functools.cache(experiment.units)
        train = experiment.train
        self.inputs, self.targets = data.replicate((train.rows, train.targets))
        self.key = data.replicate(together.key)
        teacher = experiment.teacher
        self.taught_by = data.replicate(teacher.variables) if teacher else None
        within = experiment.within
        self.cells = data.replicate(within.cells) if within else None
        self.epoch_order = together.mapped_epoch_order()
        self.first = jax.process_index() == 0

    @property
    def unchanged(self) -> tuple:
        """Arguments that are the same in every step."""
        return self.inputs, self.targets, self.key, self.taught_by, self.cells

    def run(self, state: TrainState, step: int) -> TrainState:
        """Trains from `step` to the end."""
        experiment = self.experiment
        order = self.epoch_order(state.step, self.key)
        # A copy to compile for: a step is given the state itself, which is gone after it. With
        # several processes pmap takes no shapes in place of arrays.
        copy = jax.pmap(lambda tree: jax.tree.map(jnp.copy, tree), axis_name=step_lib.AXIS)
        like = data.to_global(copy(state))
        variants = Variants(
            functools.partial(self._step_of, like=like, order=order), compiler_options()
        )
        fields = experiment.config.run
        if fields.compile == "ahead":
            self._compile_ahead(variants, step)
        elif fields.compile == "background":
            until = min(experiment.total_steps, step + _LOOK_AHEAD)
            draws = experiment.draws(range(step, until))
            variants.compile_in_background(draws, fields.compile_workers)
        with contextlib.closing(variants):
            return self._steps(state, step, order, variants)

    def _steps(
        self, state: TrainState, step: int, order: jax.Array, variants: Variants
    ) -> TrainState:
        """The steps themselves."""
        experiment = self.experiment
        total, per_epoch = experiment.total_steps, experiment.steps_per_epoch
        window = Window(self.together, self.checkpoints, self.writers, step)
        with progress(
            experiment.config.name,
            total,
            step,
            scale=experiment.config.train.batch_size * len(self.writers),
            scaled_unit=f"{experiment.task.example_name}s",
            enabled=self.first,
        ) as bar:
            while step < total:
                chosen = experiment.draw(step)
                run = variants(chosen)
                kept = state.keep(self.units(chosen))
                updated, metrics = run(kept, order, *self.unchanged)
                state, step = state.merge(updated), step + 1
                window.add(step, chosen.depth, metrics)
                shown = {"epoch": f"{step / per_epoch:.1f}", "loss": window.shown}
                bar.update(step, **shown)
                if step % per_epoch == 0:
                    order = self.epoch_order(state.step, self.key)
                stopping = self.stop.reached(step)
                if stopping or step == total or step % self._checkpoint_every == 0:
                    window.drain()
                    self._save(state, step, window, evaluate=not stopping)
                    self._report(step, window, now=True)
                self._report(step, window)
                if stopping and step < total:
                    self._wait()
                    self._report(step, window, now=True)
                    raise Preempted(step)
        self._wait()
        self._report(step, window, now=True)
        return state

    def _report(self, step: int, window: Window, *, now: bool = False) -> None:
        """Tells other programs how far the runs are."""
        self.reporter.update(
            step,
            saved=lambda: [each.saved for each in self.checkpoints],
            losses=window.losses,
            now=now,
        )

    def _save(self, state: TrainState, step: int, window: Window, *, evaluate: bool) -> None:
        """Starts to write the checkpoints of this step, evaluated where that is due."""
        states = self.together.fetch(state)
        window.check(step, states)
        metrics: list = [None] * len(self.checkpoints)
        if evaluate and self._evaluation_due(step):
            metrics = [
                self._evaluate(each, step, writer)
                for each, writer in zip(self.together.split(state), self.writers, strict=True)
            ]
        rows = zip(self.checkpoints, states, metrics, window.unrecorded, strict=True)
        for checkpoints, each, numbers, unrecorded in rows:
            checkpoints.save(step, each, numbers, unrecorded)

    def _wait(self) -> None:
        for each in self.checkpoints:
            each.wait()

    @property
    def _checkpoint_every(self) -> int:
        """Steps."""
        fields = self.experiment.config.run
        by_epoch = round(fields.checkpoint_every_epochs * self.experiment.steps_per_epoch)
        return fields.checkpoint_every_steps or max(1, by_epoch)

    def _step_of(self, draw: Draw, like: TrainState, order: jax.Array):
        """The mapped step of a draw, and arguments to compile it for."""
        kept = like.keep(self.units(draw))
        return self.together.mapped_step(draw), (kept, order, *self.unchanged)

    def _compile_ahead(self, variants: Variants, step: int) -> None:
        draws = self.experiment.draws(range(step, self.experiment.total_steps))
        workers = self.experiment.config.run.compile_workers
        with progress("compiling", len(draws), unit="variant", enabled=self.first) as bar:
            for done, _ in enumerate(variants.compile_ahead(draws, workers), 1):
                bar.update(done)

    def _evaluation_due(self, step: int) -> bool:
        """Whether the checkpoint of this step is one to evaluate."""
        fields = self.experiment.config.run
        every = round(fields.eval_every_epochs * self.experiment.steps_per_epoch)
        # The checkpoint at or after each multiple of `every`, so the two need not divide.
        before = max(0, step - self._checkpoint_every)
        due = every and step // every > before // every
        total = self.experiment.total_steps
        last = every and step == total >= every  # a short trial is swept anyway
        return self.evaluate is not None and bool(due or last)

    def _evaluate(self, state: TrainState, step: int, writer: MetricWriter) -> dict[str, float]:
        """Metrics of one run."""
        assert self.evaluate is not None
        metrics = self.evaluate(state.variables)
        writer.write(step, self.eval_split, metrics)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        _log.info("step %d, %s: %s", step, self.eval_split, shown)
        return metrics
