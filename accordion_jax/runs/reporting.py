"""How far a run is and how it ended, as small files for machines.

Training writes them, and whoever looks after runs reads them: a grid, a person's script. What is on
the screen is for people, and how checkpoints lie on the disk is the business of a library.
"""

import collections
import contextlib
import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

from accordion_jax.runs.folder import END_FILE, PROGRESS_FILE
from accordion_jax.system.files import read_json, write_json

# Writes of the last half minute, at one a second, give the rate.
_WRITES_OF_A_RATE = 30
_LONGEST_ERROR = 1000  # characters


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``progress.json`` says.

    Attributes:
      step: taken so far.
      total_steps: of the whole run.
      saved_step: of the newest checkpoint that is whole on the disk; 0 where there is none.
      loss: of the newest step whose loss has been read; None before the first.
      examples_per_second: of late; None before two writes.
      seconds_left: of training at this rate; None where that is not known.
      written: seconds since 1970.
    """

    step: int
    total_steps: int
    saved_step: int
    loss: float | None
    examples_per_second: float | None
    seconds_left: float | None
    written: float


@dataclasses.dataclass(frozen=True)
class End:
    """What ``end.json`` says: how the last process ended in order that worked on the run.

    Attributes:
      state: "done"; "preempted": told to stop, and saved first; "failed".
      step: of its newest checkpoint.
      error: of "failed", in one line.
    """

    state: str
    step: int
    error: str = ""


class Reporter:
    """Writes ``progress.json`` of runs that are trained at once, each file whole or not at all."""

    def __init__(
        self,
        workdirs: Sequence[str | os.PathLike],
        total_steps: int,
        *,
        batch_size: int,
        enabled: bool = True,
        every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Writes nothing yet.

        Args:
          workdirs: one a run.
          total_steps: of each.
          batch_size: examples that a run sees in a step.
          enabled: False writes nothing, as on all processes but the first.
          every_s: seconds between two writes.
          clock: in seconds.
        """
        self._workdirs = [pathlib.Path(each) for each in workdirs]
        self._total, self._batch_size = total_steps, batch_size
        self._enabled, self._every_s, self._clock = enabled, every_s, clock
        self._writes: collections.deque = collections.deque(maxlen=_WRITES_OF_A_RATE)

    def update(
        self,
        step: int,
        *,
        saved: Callable[[], Sequence[int | None]],
        losses: Sequence[float] | None = None,
        now: bool = False,
    ) -> None:
        """Writes how far the runs are, where it is time.

        Args:
          step: taken so far.
          saved: gives the newest step that each run has on its disk; called if it is time.
          losses: one a run.
          now: writes in any case.
        """
        at = self._clock()
        if not self._enabled or not (
            now or not self._writes or at - self._writes[-1][0] >= self._every_s
        ):
            return
        rate = None
        if self._writes and at > self._writes[0][0]:
            rate = (step - self._writes[0][1]) / (at - self._writes[0][0])
        self._writes.append((at, step))
        for run, (workdir, saved_step) in enumerate(zip(self._workdirs, saved(), strict=True)):
            loss = None if losses is None else float(losses[run])
            report = Report(
                step=step,
                total_steps=self._total,
                saved_step=saved_step or 0,
                loss=loss if loss is not None and math.isfinite(loss) else None,
                examples_per_second=None if rate is None else round(rate * self._batch_size, 1),
                seconds_left=round((self._total - step) / rate, 1) if rate else None,
                written=round(time.time(), 3),
            )
            write_json(workdir / PROGRESS_FILE, dataclasses.asdict(report))


def read_progress(workdir: str | os.PathLike) -> Report | None:
    """Returns how far a run is; None before it has said so, or where its file is damaged."""
    facts = _read(pathlib.Path(workdir) / PROGRESS_FILE)
    step, total_steps, saved = (facts.get(n) for n in ("step", "total_steps", "saved_step"))
    if not (_is_count(step) and _is_count(total_steps) and _is_count(saved)):
        return None
    return Report(
        step=step,
        total_steps=total_steps,
        saved_step=saved,
        loss=_number(facts.get("loss")),
        examples_per_second=_number(facts.get("examples_per_second")),
        seconds_left=_number(facts.get("seconds_left")),
        written=_number(facts.get("written")) or 0.0,
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def saved_step(workdir: str | os.PathLike) -> int:
    """Returns the step of a run's newest checkpoint, as it has said; 0 where there is none."""
    report = read_progress(workdir)
    return report.saved_step if report else 0


@contextlib.contextmanager
def ending(
    workdirs: Sequence[str | os.PathLike],
    *,
    preempted: type[BaseException],
) -> Iterator[None]:
    """Writes ``end.json`` of runs, however the work on them ends in order.

    What an earlier process wrote is removed first: a process that is killed leaves none.

    Args:
      workdirs: one a run; none on all processes but the first.
      preempted: what is raised by a process that was told to stop, and has saved.
    """

    def write(state: str, error: str = "") -> None:
        for workdir in map(pathlib.Path, workdirs):
            end = End(state, saved_step(workdir), error)
            write_json(workdir / END_FILE, dataclasses.asdict(end))

    forget_end(*workdirs)
    try:
        yield
    except preempted:
        write("preempted")
        raise
    except BaseException as error:
        # The failure counts, not that it cannot be told, as on a full disk.
        with contextlib.suppress(OSError):
            write("failed", _in_one_line(error))
        raise
    write("done")


def forget_end(*workdirs: str | os.PathLike) -> None:
    """Removes ``end.json``, where there is one."""
    for workdir in workdirs:
        (pathlib.Path(workdir) / END_FILE).unlink(missing_ok=True)


def read_end(workdir: str | os.PathLike) -> End | None:
    """Returns how the last process ended that worked on a run; None where it has not said so."""
    facts = _read(pathlib.Path(workdir) / END_FILE)
    if facts.get("state") not in ("done", "preempted", "failed"):
        return None
    step = facts.get("step")
    return End(facts["state"], step if _is_count(step) else 0, str(facts.get("error", "")))


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A file of these; empty where it is damaged: the next process writes it anew."""
    try:
        return read_json(path)
    except ValueError:
        return {}


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, (ValueError, OSError, RuntimeError)) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"
