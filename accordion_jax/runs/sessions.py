"""The time spent on a run: one session a process that worked on it for a grid."""

import datetime
import pathlib
import platform
import time
from typing import Any

from accordion_jax.runs.reporting import read_progress, saved_step
from accordion_jax.system.files import read_json, write_json

SESSIONS_FILE = "sessions.json"
_RECORD_EVERY_S = 5.0


def read_sessions(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the sessions of a run so far, oldest first.

    Raises:
      ValueError: the file is damaged; names it, and what to do.
    """
    path = workdir / SESSIONS_FILE
    sessions = read_json(path).get("sessions", [])
    if not isinstance(sessions, list) or not all(map(_is_session, sessions)):
        raise ValueError(
            f"{path} is damaged: wanted a list of sessions, each with the number 'seconds' and the "
            "text 'started'; mend it, or move it away"
        )
    return sessions


def _is_session(value: Any) -> bool:
    if not isinstance(value, dict) or type(value.get("seconds")) not in (int, float):
        return False
    try:
        return datetime.datetime.fromisoformat(value.get("started", "")).tzinfo is not None
    except (TypeError, ValueError):
        return False


def write_sessions(workdir: pathlib.Path, sessions: list[dict[str, Any]]) -> None:
    """Writes the sessions of a run, whole or not at all."""
    total = sum(session["seconds"] for session in sessions)
    write_json(workdir / SESSIONS_FILE, {"seconds": round(total, 1), "sessions": sessions})


def seconds_spent(workdir: pathlib.Path) -> float:
    """Returns the time spent on a run, summed over its sessions."""
    return sum(session["seconds"] for session in read_sessions(workdir))


def left_open(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the session that a killed grid did not close; empty where there is none."""
    sessions = read_sessions(workdir)
    return sessions[-1] if sessions and sessions[-1].get("open") else {}


class Session:
    """The time of one process at work on a run, on disk every few seconds."""

    def __init__(self, workdir: pathlib.Path):
        """Reads the earlier ones; writes nothing yet.

        Raises:
          ValueError: as `read_sessions`.
        """
        self._workdir = workdir
        self._earlier = [_closed(each, workdir) for each in read_sessions(workdir)]
        self._began = self._recorded = time.monotonic()
        self._facts: dict[str, Any] = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "first_step": saved_step(workdir),
        }

    def open(self, pid: int) -> None:
        """Writes that it has begun.

        Args:
          pid: of the process, on this machine.
        """
        self._facts["pid"] = pid
        self._record(open=True)

    def record_now_and_then(self) -> None:
        """Writes how long it has lasted, every few seconds."""
        if time.monotonic() - self._recorded > _RECORD_EVERY_S:
            self._record(open=True)

    def close(self) -> None:
        """Writes how long it lasted; one that is still open belongs to a grid that was killed."""
        self._record()

    def _record(self, **more: bool) -> None:
        self._recorded = time.monotonic()
        facts = {
            "last_step": saved_step(self._workdir),
            "seconds": round(self._recorded - self._began, 3),
        }
        write_sessions(self._workdir, [*self._earlier, self._facts | facts | more])


def _closed(session: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """A session whose grid was killed, ended when its process last said how far it is."""
    if not session.get("open"):
        return session
    report = read_progress(workdir)
    started = datetime.datetime.fromisoformat(session["started"]).timestamp()
    seconds = max(session["seconds"], (report.written if report else 0.0) - started)
    closed = {name: value for name, value in session.items() if name != "open"}
    return closed | {"last_step": saved_step(workdir), "seconds": round(seconds, 1)}
