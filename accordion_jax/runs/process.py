"""One run of a grid in a process of its own: started, watched, stopped in time, and accounted for.

The grid that works on a run holds a lock of its own, so that several grids can share a folder of
runs. The run's process holds the run's lock until it ends, however it ends: so a grid that starts
after another was killed sees that the run is still at work, and takes it over, in place of training
into the same folder twice. A process that no grid has started is left alone.
"""

import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from accordion_jax.runs import folder, grid
from accordion_jax.runs.folder import BusyError
from accordion_jax.runs.reporting import (
    Report,
    forget_end,
    read_end,
    read_progress,
    saved_step,
)
from accordion_jax.runs.sessions import Session, left_open
from accordion_jax.system.locks import locked

LOG_FILE = "log.txt"
# What the least of a log takes.
_LEAST_FREE_BYTES = 1 << 16
_POLL_S = 0.1


class Budget:
    """When to stop: at a time, or when a signal has come.

    Attributes:
      at: of `time.monotonic`; infinity is never.
      grace_s: for a run to save after SIGTERM, before it is killed.
      signalled: the signal's name, once one has come.
    """

    def __init__(self, at: float = float("inf"), grace_s: float = 60.0):
        self.at, self.grace_s = at, grace_s
        self.signalled: str | None = None

    def __enter__(self) -> "Budget":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._old = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signalled = signal.Signals(number).name

    @property
    def left_s(self) -> float:
        """Seconds until it is time; 0 when a signal has come."""
        return 0.0 if self.signalled else max(0.0, self.at - time.monotonic())

    @property
    def reason(self) -> str:
        """Why to stop, in words."""
        return f"{self.signalled} came" if self.signalled else "the time budget is used up"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a run stands after a grid has worked on it.

    Attributes:
      state: "done", "partly", "not begun", "failed" or "busy".
      step: of its newest checkpoint.
      total: steps of the whole run, where they are known.
      reason: why it is not done, in one line.
    """

    state: str
    step: int
    total: int | None = None
    reason: str = ""


def main_command(run: grid.GridRun) -> list[str]:
    """Returns the command that trains and sweeps a run, from where it stopped.

    All runs of a grid keep their compiled programs in one folder, unless an override says
    otherwise: seeds of one config have the same.
    """
    cache = run.workdir.parent / ".grid" / "compilation_cache"
    flags = [
        f"--config={run.spec}",
        f"--config.run.compilation_cache={cache}",
        *run.overrides,
        f"--workdir={run.workdir}",
    ]
    return [sys.executable, "-u", "-m", "accordion_jax.main", *flags]


def _environment() -> dict[str, str]:
    """The environment of a run: with large pages for its arrays, unless it says otherwise.

    A step on CPU takes and returns memory for all its arrays; in pages of 4 kB that costs a seventh
    of its time. A C library that does not know the setting ignores it.
    """
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ


def work_on(
    run: grid.GridRun,
    budget: Budget,
    *,
    show: Callable[[str], None],
    follow: Callable[[Report], None],
    command: Callable[[grid.GridRun], Sequence[str]] = main_command,
) -> Verdict:
    """Runs a run until it is done, fails, or has to stop; returns how it stands then.

    Args:
      run: of a grid.
      budget: when the run's process gets SIGTERM, at which it saves and ends.
      show: called with what happens, in words.
      follow: called when the process says how far it is.
      command: gives the process's command.
    """
    try:
        with locked(run.workdir.parent / ".grid" / f"{run.name}.lock") as mine:
            if not mine:
                raise BusyError("another grid works on it")
            if (there := grid.look(run)).state == "done":  # by another grid, in the meantime
                return Verdict("done", there.step, there.step)
            _take_over(run, budget, show)
            return _work(run, budget, show, follow, list(command(run)))
    except BusyError as error:
        return Verdict("busy", saved_step(run.workdir), None, str(error))


def _work(
    run: grid.GridRun,
    budget: Budget,
    show: Callable[[str], None],
    follow: Callable[[Report], None],
    command: list[str],
) -> Verdict:
    """Starts the run's process and stays until it ends."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    session = Session(run.workdir)
    forget_end(run.workdir)
    log = run.workdir / LOG_FILE
    with log.open("ab") as written:
        begin = written.tell()
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            # Into a file, not a pipe: the process outlives a grid that is killed.
            stdout=written,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal reaches the grid alone, which then stops the run in order.
            start_new_session=True,
        )
    try:
        session.open(process.pid)
        stopped = _watch(process, run.workdir, budget, show, follow, session)
    except BaseException:
        process.terminate()
        raise
    finally:
        session.close()
    return _judge(run, process.returncode, stopped, log, begin)


def _watch(
    process: subprocess.Popen,
    workdir: pathlib.Path,
    budget: Budget,
    show: Callable[[str], None],
    follow: Callable[[Report], None],
    session: Session,
) -> str:
    """Follows the process until it ends; why it was stopped, if it was."""
    stopped, kill_at, last = "", float("inf"), read_progress(workdir)
    while True:
        ended = process.poll() is not None
        if (report := read_progress(workdir)) and report != last:
            follow(report)
            last = report
        session.record_now_and_then()
        if ended:
            return stopped
        if not stopped and not budget.left_s:
            stopped, kill_at = budget.reason, time.monotonic() + budget.grace_s
            show(f"saves and stops: {stopped}")
            process.terminate()
        if time.monotonic() > kill_at:
            process.kill()
            stopped += f"; killed, since it had not saved within {budget.grace_s:g} s"
            kill_at = float("inf")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)


def _judge(run: grid.GridRun, code: int, stopped: str, log: pathlib.Path, begin: int) -> Verdict:
    """How the run stands after its process has ended."""
    there = grid.look(run)
    if there.state == "done":
        return Verdict("done", there.step, there.step)
    report = read_progress(run.workdir)
    total = report.total_steps if report else None
    if stopped:
        return Verdict(there.state, there.step, total, stopped)
    end = read_end(run.workdir)
    if end is not None and end.state == "preempted":
        return Verdict(there.state, there.step, total, "it was told to stop, and has saved")
    if end is not None and end.state == "failed":
        reason = f"{end.error} (exit code {code}; see {log})"
        return Verdict("failed", there.step, total, reason)
    if code and (found := folder.holder(run.workdir)) is not None:
        raise BusyError(f"{found} works on it")
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return Verdict("failed", there.step, total, f"ended by {name}{hint}; see {log}")
    if code == 0:
        reason = f"it has ended, and left no table of this config; see {log}"
    else:  # before it was at work, as when a package is missing: its last words are all there is
        reason = f"{_last_line(log, begin)} (exit code {code}; see {log})"
    return Verdict("failed", there.step, total, reason)


def _last_line(log: pathlib.Path, begin: int) -> str:
    """The last line that is in a log after its first `begin` bytes, for a person to read."""
    with log.open("rb") as written:
        written.seek(begin)
        lines = [line.strip() for line in written.read().decode(errors="replace").splitlines()]
    if line := next((line for line in reversed(lines) if line), ""):
        return line
    if shutil.disk_usage(log.parent).free < _LEAST_FREE_BYTES:
        return f"no room in {log.parent}: make room, and run the same command again"
    return "it wrote nothing"


def _take_over(run: grid.GridRun, budget: Budget, show: Callable[[str], None]) -> None:
    """Stops the process of a grid that was killed, if one is still at work on this run."""
    found = folder.holder(run.workdir)
    if found is None:
        return
    left = left_open(run.workdir)
    if found.pid is None or (found.pid, found.host) != (left.get("pid"), left.get("host")):
        raise BusyError(f"{found} works on it")
    if found.host != platform.node():
        raise BusyError(f"{found}, which an ended grid has left at work, works on it")
    show(f"takes over from process {found.pid}, which an ended grid has left at work")
    # The lock is held, so the process is alive, and no other can have its number.
    for number, wait_s in ((signal.SIGTERM, budget.grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, number)
        give_up = time.monotonic() + wait_s
        while time.monotonic() < give_up:
            if folder.holder(run.workdir) is None:
                return
            time.sleep(_POLL_S)
    raise BusyError(f"{found} works on it and does not end")
