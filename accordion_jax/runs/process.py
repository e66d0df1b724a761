"""One run of a grid in a process of its own: started, watched, stopped in time, and accounted for.

Every run has two locks. The grid that works on it holds the first, so that several grids can share
a folder of runs. The run's own process inherits the second, and holds it until it ends, however it
ends: so a grid that starts after another was killed knows that the run is still at work, and takes
it over, in place of training into the same folder twice.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from accordion_jax.runs import grid

LOG_FILE = "log.txt"
_POLL_S = 0.1
_RECORD_EVERY_S = 5.0

# How the main job says how far it is: "NAME: step 853/3900, loss 0.938, …".
_PROGRESS = re.compile(r": step (\d+)/(\d+)\b")
_STAMPED = re.compile(r"^\d\d:\d\d:\d\d (.+)$")


class BusyError(RuntimeError):
    """Another grid works on the run, or a process that cannot be ended from here."""


class Stop:
    """When to stop: at a time, or when a signal has come.

    Attributes:
      at: of `time.monotonic`; infinity is never.
      grace_s: for a run to save after SIGTERM, before it is killed.
      signalled: the signal's name, once one has come.
    """

    def __init__(self, at: float = float("inf"), grace_s: float = 60.0):
        self.at, self.grace_s = at, grace_s
        self.signalled: str | None = None

    def __enter__(self) -> "Stop":
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
class Outcome:
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
    stop: Stop,
    *,
    show: Callable[[str], None],
    command: Callable[[grid.GridRun], Sequence[str]] = main_command,
) -> Outcome:
    """Runs a run until it is done, fails, or has to stop; returns how it stands then.

    Args:
      run: of a grid.
      stop: when the run's process gets SIGTERM, at which it saves and ends.
      show: called with each line by which the process says how far it is.
      command: gives the process's command.
    """
    try:
        with _lock(run, "grid") as mine:
            if mine is None:
                raise BusyError("another grid works on it")
            if (there := grid.look(run)).state == "done":  # by another grid, in the meantime
                return Outcome("done", there.step, there.step)
            _take_over(run, stop, show)
            return _work(run, stop, show, list(command(run)))
    except BusyError as error:
        return Outcome("busy", grid.latest_step(run.workdir), None, str(error))


def _work(
    run: grid.GridRun, stop: Stop, show: Callable[[str], None], command: list[str]
) -> Outcome:
    """Starts the run's process and stays until it ends."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    log = run.workdir / LOG_FILE
    with log.open("ab") as written, _lock(run, "run") as lock:
        if lock is None:
            raise BusyError("a process works on it that was not here a moment ago")
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
            pass_fds=[lock.fileno()],
        )
        _write_holder(lock, process.pid)
        session = _Session(run)
        try:
            total, stopped = _watch(process, log, begin, stop, show, session)
        except BaseException:
            process.terminate()
            raise
        finally:
            session.record()
    return _judge(run, process.returncode, total, stopped, log, begin)


def _watch(
    process: subprocess.Popen,
    log: pathlib.Path,
    begin: int,
    stop: Stop,
    show: Callable[[str], None],
    session: "_Session",
) -> tuple[int | None, str]:
    """Follows the log until the process ends; the run's steps, and why it was stopped."""
    total, stopped, kill_at = None, "", float("inf")
    with log.open("rb") as lines:
        lines.seek(begin)
        while True:
            ended = process.poll() is not None
            for line in _whole_lines(lines):
                if stamped := _STAMPED.match(line):
                    show(stamped[1])
                if progress := _PROGRESS.search(line):
                    total = int(progress[2])
            session.record_now_and_then()
            if ended:
                return total, stopped
            if not stopped and not stop.left_s:
                stopped, kill_at = stop.reason, time.monotonic() + stop.grace_s
                show(f"saves and stops: {stopped}")
                process.terminate()
            if time.monotonic() > kill_at:
                process.kill()
                stopped += f"; killed, since it had not saved within {stop.grace_s:g} s"
                kill_at = float("inf")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)


def _whole_lines(lines: IO[bytes]) -> Iterator[str]:
    """Lines of a growing file that have been written to their end."""
    while line := lines.readline():
        if not line.endswith(b"\n"):
            lines.seek(-len(line), os.SEEK_CUR)
            return
        yield line.decode(errors="replace").rstrip()


def _judge(
    run: grid.GridRun, code: int, total: int | None, stopped: str, log: pathlib.Path, begin: int
) -> Outcome:
    """How the run stands after its process has ended."""
    there = grid.look(run)
    if there.state == "done":
        return Outcome("done", there.step, there.step)
    if stopped:
        return Outcome(there.state, there.step, total, stopped)
    if code == 0:
        return Outcome(there.state, there.step, total, "it stopped in order before its end")
    with log.open("rb") as lines:
        lines.seek(begin)
        written = [line.strip() for line in lines.read().decode(errors="replace").splitlines()]
    errors = [line for line in written if line.startswith("error: ")]
    last = errors or [line for line in written if line] or ["it wrote nothing"]
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return Outcome("failed", there.step, total, f"ended by {name}{hint}; see {log}")
    reason = f"{last[-1].removeprefix('error: ')} (exit code {code}; see {log})"
    return Outcome("failed", there.step, total, reason)


class _Session:
    """The time of one process at work on a run, on disk every few seconds."""

    def __init__(self, run: grid.GridRun):
        self._workdir = run.workdir
        self._earlier = [_closed(each, run.workdir) for each in grid.read_sessions(run.workdir)]
        self._began = self._recorded = time.monotonic()
        self._facts: dict[str, Any] = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "first_step": grid.latest_step(run.workdir),
        }
        self.record(open_=True)

    def record_now_and_then(self) -> None:
        if time.monotonic() - self._recorded > _RECORD_EVERY_S:
            self.record(open_=True)

    def record(self, *, open_: bool = False) -> None:
        """Writes it; a session that is still open on disk belongs to a grid that was killed."""
        self._recorded = time.monotonic()
        facts = self._facts | {
            "last_step": grid.latest_step(self._workdir),
            "seconds": round(self._recorded - self._began, 3),
        }
        if open_:
            facts["open"] = True
        grid.write_sessions(self._workdir, [*self._earlier, facts])


def _closed(session: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """A session whose grid was killed, ended when its process last wrote to its log."""
    if not session.get("open"):
        return session
    started = datetime.datetime.fromisoformat(session["started"]).timestamp()
    seconds = max(session["seconds"], (workdir / LOG_FILE).stat().st_mtime - started)
    closed = {name: value for name, value in session.items() if name != "open"}
    return closed | {"seconds": round(seconds, 1)}


@contextlib.contextmanager
def _lock(run: grid.GridRun, what: str) -> Iterator[IO[str] | None]:
    """Holds one of a run's locks, or gives None where another process holds it."""
    path = _lock_path(run, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def _lock_path(run: grid.GridRun, what: str) -> pathlib.Path:
    return run.workdir.parent / ".grid" / f"{run.name}.{what}.lock"


def _write_holder(lock: IO[str], pid: int) -> None:
    lock.truncate(0)
    lock.write(f"{pid} {platform.node()}\n")
    lock.flush()


def _take_over(run: grid.GridRun, stop: Stop, show: Callable[[str], None]) -> None:
    """Stops the process of a grid that was killed, if one is still at work on this run."""
    with _lock(run, "run") as lock:
        if lock is not None:
            return
    pid, _, host = _lock_path(run, "run").read_text(encoding="utf-8").strip().partition(" ")
    if not pid.isdigit() or host != platform.node():
        raise BusyError(f"process {pid or 'unknown'} on {host or 'an unknown host'} works on it")
    show(f"takes over from process {pid}, which an ended grid has left at work")
    # The lock is held, so the process is alive, and no other can have its number.
    for number, wait_s in ((signal.SIGTERM, stop.grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), number)
        give_up = time.monotonic() + wait_s
        while time.monotonic() < give_up:
            with _lock(run, "run") as lock:
                if lock is not None:
                    return
            time.sleep(_POLL_S)
    raise BusyError(f"process {pid} works on it and does not end")
