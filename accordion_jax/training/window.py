"""What the host reads of the steps: their metrics, a few steps late, and whether all is finite."""

import collections
import time
from collections.abc import Sequence

import jax
import numpy as np

from accordion_jax import data
from accordion_jax.training import step as step_lib
from accordion_jax.training.checkpoints import Checkpoints
from accordion_jax.training.metrics import MetricWriter
from accordion_jax.training.state import Tree
from accordion_jax.training.together import Together

# Steps whose metrics are still on the device: the host reads those of older steps while the device
# works on these, and never waits for the newest.
_LAG = 2


class DivergedError(RuntimeError):
    """The loss or the weights were not finite."""


class Window:
    """Metrics of the steps since the last record, read a few steps late."""

    def __init__(
        self,
        together: Together,
        checkpoints: Sequence[Checkpoints],
        writers: Sequence[MetricWriter],
        step: int,
    ):
        self._together, self._checkpoints, self._writers = together, checkpoints, writers
        self.shown = "-"
        self.losses: list[float] | None = None  # one a run, of the newest step that is read
        self._pending: collections.deque = collections.deque()
        # Name -> [runs] of each step, and its depth. Not all steps have the same names.
        self._read: list[tuple[dict[str, np.ndarray], int]] = []
        if step:
            self._read = self._read_before(step)
        self._since, self._first_step = time.monotonic(), step

    def add(self, step: int, depth: int, metrics: step_lib.Metrics) -> None:
        """Queues the metrics of a step, and reads those of an older one."""
        self._pending.append((step, depth, metrics))
        if len(self._pending) > _LAG:
            self._take()

    def _read_before(self, step: int) -> list[tuple[dict[str, np.ndarray], int]]:
        """What the process before had read, and not recorded, when it saved this step."""
        kept = [dict(each.unrecorded(step)) for each in self._checkpoints]
        depths = [each.pop("depth", []) for each in kept]
        if any(each != depths[0] for each in depths):  # runs that were not trained at once
            return []
        columns = {
            name: np.array([each[name] for each in kept], np.float32).T
            for name in kept[0]
            if all(len(each.get(name, ())) == len(depths[0]) for each in kept)
        }
        return [
            ({name: column[i] for name, column in columns.items() if _known(column[i])}, int(depth))
            for i, depth in enumerate(depths[0])
        ]

    @property
    def unrecorded(self) -> list[dict[str, list[float]]]:
        """Of each run: the numbers of the steps since the last record; NaN: a step has none."""
        absent = np.full(len(self._checkpoints), np.nan, np.float32)
        return [
            {
                name: [float(metrics.get(name, absent)[run]) for metrics, _ in self._read]
                for name in self._names
            }
            | {"depth": [depth for _, depth in self._read]}
            for run in range(len(self._checkpoints))
        ]

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for metrics, _ in self._read for name in metrics))

    def drain(self) -> None:
        """Reads what is queued: after it, every step so far had a finite loss."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        step, depth, metrics = self._pending.popleft()
        # One number a run.
        read = {name: np.atleast_1d(data.unreplicate(each)) for name, each in metrics.items()}
        loss = read["loss"]
        if not np.isfinite(loss).all():
            run = int(np.flatnonzero(~np.isfinite(loss))[0])
            self._refuse(run, f"the loss of step {step} ({depth} blocks)", f"is {loss[run]}")
        self._read.append((read, depth))
        self.shown, self.losses = f"{loss.mean():.3f}", loss.tolist()
        experiment = self._together.experiment
        every = experiment.config.run.log_every_steps
        if step % every and step != experiment.total_steps:
            return
        now = time.monotonic()
        columns = {
            name: np.array([each[name] for each, _ in self._read if name in each])
            for name in self._names
        }
        examples = (step - self._first_step) * experiment.config.train.batch_size
        shared = {
            "epoch": step / experiment.steps_per_epoch,
            "mean_depth": float(np.mean([depth for _, depth in self._read])),
            "learning_rate": float(experiment.learning_rate(step - 1)),
            f"{experiment.task.example_name}s_per_second": examples / max(now - self._since, 1e-9),
        }
        for run, writer in enumerate(self._writers):
            means = {
                name: float(column[:, run].mean(dtype=np.float64))
                for name, column in columns.items()
            }
            writer.write(step, "train", shared | means)
        self._read, self._since, self._first_step = [], now, step

    def check(self, step: int, states: Sequence[Tree]) -> None:
        """Refuses states that are not to be saved: what follows from them is lost.

        Args:
          step: after which they are.
          states: one a run, on the host.

        Raises:
          DivergedError: a number is not finite, although the losses so far were.
        """
        for run, state in enumerate(states):
            for leaf in jax.tree.leaves(state):
                if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
                    self._refuse(run, f"the weights after step {step}", "are not finite")

    def _refuse(self, run: int, what: str, how: str) -> None:
        """Says which run diverged, and where it was well."""
        checkpoints, latest = self._checkpoints[run], self._checkpoints[run].latest
        good = (
            f"the last good checkpoint is {checkpoints.folder / str(latest)}"
            if latest is not None
            else "there is no checkpoint before it"
        )
        raise DivergedError(
            f"{what} (seed {self._together.seeds[run]}) {how}; {good}. Lower "
            "config.optimizer.learning_rate or set config.optimizer.warmup_epochs, and use "
            "another --workdir"
        )


def _known(numbers: np.ndarray) -> bool:
    return not np.isnan(numbers).any()
