"""A run's folder, its workdir: the names of its files, and who may work in it."""

import contextlib
import dataclasses
import os
import pathlib
import platform
from collections.abc import Iterator, Sequence

from accordion_jax.system.files import read_json, write_json
from accordion_jax.system.locks import Lock

CONFIG_FILE = "config.json"  # the resolved config, and the versions that made the run
MODEL_FILE = "model.json"  # what it takes to build the network, and to feed it
POLICY_FILE = "policy.json"  # what the policy was made of, and its probabilities
METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "lookup_table.json"
TABLE_CSV_FILE = "lookup_table.csv"
PROGRESS_FILE = "progress.json"  # how far training is
END_FILE = "end.json"  # how the last process ended that worked on the run
CHECKPOINTS = "checkpoints"  # folder
OWN_STATISTICS = "own_statistics"  # folder; a file a configuration
LOCK_FILE = "run.lock"  # held by the process that works on the run
HOLDER_FILE = "holder.json"  # which process that is

# A library takes a checkpoint's path as a pattern: with these it writes what nobody can read.
_PATTERN = "*?[]\\"


class BusyError(RuntimeError):
    """Another process works on the run."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that works on a run.

    Attributes:
      pid: None where it has not said so yet.
      host: name of the machine that it runs on.
    """

    pid: int | None
    host: str

    def __str__(self) -> str:
        return f"process {self.pid or 'unknown'} on {self.host}"


def check_path(path: str | os.PathLike) -> None:
    """Refuses a path where checkpoints would be lost.

    Raises:
      ValueError: the path, made absolute, has a character that Orbax takes for a pattern.
    """
    absolute = pathlib.Path(path).absolute()
    if found := sorted({each for each in str(absolute) if each in _PATTERN}):
        raise ValueError(
            f"checkpoints cannot be kept in {absolute}: the library that writes them takes "
            f"{' '.join(found)} in a path for a pattern; use a path without it (a run that is "
            "there may be moved)"
        )


@contextlib.contextmanager
def held(workdirs: Sequence[str | os.PathLike]) -> Iterator[None]:
    """Holds the locks of runs, so that no other process works on them until the end.

    A lock ends with its process, however that ends.

    Args:
      workdirs: one a run; made where they do not exist.

    Raises:
      BusyError: another process works on one of them; says which, and what to do.
    """
    with contextlib.ExitStack() as stack:
        for workdir in dict.fromkeys(map(pathlib.Path, workdirs)):
            workdir.mkdir(parents=True, exist_ok=True)
            lock = Lock(workdir / LOCK_FILE)
            if not lock.acquire():
                found = _holder(workdir)
                stop = f"stop it (kill {found.pid})" if found.pid else "stop it"
                raise BusyError(f"{found} works on {workdir}; wait until it has ended, or {stop}")
            stack.callback(lock.release)
            write_json(workdir / HOLDER_FILE, {"pid": os.getpid(), "host": platform.node()})
            stack.callback((workdir / HOLDER_FILE).unlink, missing_ok=True)
        yield


def holder(workdir: str | os.PathLike) -> Holder | None:
    """Returns the process that works on a run; None where there is none, or no locks."""
    workdir = pathlib.Path(workdir)
    if not (workdir / LOCK_FILE).exists():
        return None
    lock = Lock(workdir / LOCK_FILE)
    if lock.acquire():
        lock.release()
        return None
    return _holder(workdir)


def _holder(workdir: pathlib.Path) -> Holder:
    """Who holds the lock, as it has written."""
    try:
        facts = read_json(workdir / HOLDER_FILE)
    except ValueError:
        facts = {}
    pid = facts.get("pid")
    return Holder(pid if type(pid) is int and pid > 0 else None, str(facts.get("host", "?")))
