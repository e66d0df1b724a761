"""The endpoint's log of plans: what devices asked for, and nothing that says who asked.

One line of JSON a plan request, always of these keys::

  {"plan": 1, "model": "3a041216232867b0", "requirements": {"max_error": 0.2},
   "configuration": "coml-1"}

Numbers are rounded to two significant digits, so that a device cannot be told by the exact speed of
its link. Left out are the time, the address, all headers, and what the device holds. `model` is the
beginning of the model's id: a configuration's name means nothing without it.
"""

import collections
import contextlib
import dataclasses
import json
import logging
import logging.handlers
import os
import pathlib
import queue
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.planner import Requirements
from accordion_jax.depth.fitting import Demand

_log = logging.getLogger(__name__)

_KEYS = {"plan", "model", "requirements", "configuration"}
_MODEL_LETTERS = 16
_LONGEST_LINE = 1000


def coarsened(requirements: Requirements) -> dict[str, float]:
    """Returns what is set of the requirements, each number with two significant digits.

    A confidence keeps two of what it lacks to 1: 0.9512 is 0.951.
    """

    def rounded(name: str, value: float) -> float:
        if name == "confidence":
            return round(1 - float(f"{1 - value:.1e}"), 15)
        coarse = float(f"{value:.1e}")
        return int(coarse) if coarse.is_integer() else coarse

    return {name: rounded(name, value) for name, value in requirements.to_dict().items()}


class PlanLog:
    """Appends lines in a thread of its own; a request never waits for it, nor fails by it.

    Where the disk is slower than the requests, or takes nothing more, lines are lost, and counted.

    Args:
      path: of the file; its folder must be there.
      max_bytes: at which it becomes `path`.1, and that one `path`.2.
      files: of earlier ones that are kept.
      waiting: lines that may wait for the disk.

    Raises:
      DeliveryError: the file cannot be opened; names it.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        max_bytes: int = 10_000_000,
        files: int = 5,
        waiting: int = 10_000,
    ):
        self._queue: queue.Queue = queue.Queue(waiting)
        try:
            self._file = _File(path, maxBytes=max_bytes, backupCount=files, encoding="ascii")
        except OSError as error:
            raise DeliveryError(
                f"the log of plans cannot be written to {os.fspath(path)}: {error.strerror}"
            ) from error
        self._full = 0
        self._listener = _Writer(self._queue, self._file)
        self._listener.start()

    @property
    def lost(self) -> int:
        """Lines that were not written."""
        return self._full + self._file.failed

    def write(self, model_id: str, requirements: Requirements, configuration: str | None) -> None:
        """Has a line written soon.

        Args:
          model_id: of the model that was planned.
          requirements: that were asked for.
          configuration: that the plan chose.
        """
        line = {
            "plan": 1,
            "model": model_id[:_MODEL_LETTERS],
            "requirements": coarsened(requirements),
            "configuration": configuration,
        }
        try:
            self._queue.put_nowait(logging.makeLogRecord({"msg": json.dumps(line)}))
        except queue.Full:
            self._full += 1

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Closes the log when an application ends; signals end a process before others could."""
        yield
        self.close()

    def close(self) -> None:
        """Writes what waits, and closes the file."""
        self._listener.stop()
        self._file.close()


class _Writer(logging.handlers.QueueListener):
    """The thread that writes."""

    def enqueue_sentinel(self) -> None:
        """Has it end after what waits, which may be all that there is room for."""
        self.queue.put(self._sentinel)  # type: ignore[attr-defined]


class _File(logging.handlers.RotatingFileHandler):
    """A file that counts what it could not take; the library would print each with its stack."""

    failed = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the library's
        if not self.failed:
            _log.warning(
                "the log of plans cannot be written (%s); lines are lost", sys.exc_info()[1]
            )
        self.failed += 1


@dataclasses.dataclass(frozen=True)
class Logged:
    """What a log says.

    Attributes:
      requirements: how often each was asked for.
      configurations: how often each was chosen; None where nothing was within the bounds.
      foreign: lines that are not of such a log.
      first_foreign: where the first of them is, and what it is; empty where there is none.
    """

    requirements: Mapping[Requirements, int]
    configurations: Mapping[str | None, int]
    foreign: int
    first_foreign: str

    @property
    def demands(self) -> dict[Demand, float]:
        """How often each was asked for, a deadline as the bytes that its link carries until then.

        A deadline without round trips, as the planner has it: a device charges them itself.
        """
        found: collections.Counter[Demand] = collections.Counter()
        for asked, count in self.requirements.items():
            bounds = [] if asked.max_bytes is None else [float(asked.max_bytes)]
            if asked.deadline_s is not None and asked.throughput_bps is not None:
                bounds.append(asked.deadline_s * asked.throughput_bps / 8)
            found[Demand(asked.max_error, min(bounds, default=None), asked.max_macs)] += count
        return {demand: float(count) for demand, count in found.items()}


def find_plan_logs(pattern: str) -> list[pathlib.Path]:
    """Returns the files of a log: one, or those of a glob pattern such as ``plans.jsonl*``.

    Raises:
      FileNotFoundError: there are none; names the pattern.
    """
    path = pathlib.Path(pattern)
    found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not found:
        raise FileNotFoundError(
            f"no log at {pattern!r}; accordion_jax.serve --plan_log=FILE writes one"
        )
    return found


def read_plan_log(paths: Iterable[str | os.PathLike], model_id: str = "") -> Logged:
    """Reads the files of a log.

    Args:
      paths: in any order.
      model_id: the model, or its beginning, whose requests are read; empty where there is one.

    Raises:
      ValueError: there are no lines of a log, more foreign ones than that, or lines of several
        models with no `model_id` to choose by; says which.
      OSError: a file cannot be read.
    """
    asked: collections.Counter[Requirements] = collections.Counter()
    chosen: collections.Counter[str | None] = collections.Counter()
    models: collections.Counter[str] = collections.Counter()
    foreign, first = 0, ""
    names = [pathlib.Path(path) for path in paths]
    for path in names:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                parsed = _parse(line)
                if parsed is None:
                    foreign += 1
                    first = first or f"{path}, line {number}: {line[:60]!r}"
                    continue
                model, requirements, configuration = parsed
                models[model] += 1
                if model.startswith(model_id[:_MODEL_LETTERS]):
                    asked[requirements] += 1
                    chosen[configuration] += 1
    lines = sum(models.values())
    of = ", ".join(map(str, names))
    if foreign > lines:
        raise ValueError(
            f"{of} has {foreign} lines that are not of an endpoint's log of plans, and {lines} "
            f"that are; the first is {first}"
        )
    if not lines:
        raise ValueError(f"{of} has no lines; accordion_jax.serve --plan_log=FILE writes them")
    if not model_id and len(models) > 1:
        counts = ", ".join(f"{model} ({count})" for model, count in models.most_common())
        raise ValueError(f"{of} has plans of several models; choose one with --model: {counts}")
    if not asked:
        raise ValueError(f"{of} has no plans of model {model_id!r}; it has {', '.join(models)}")
    return Logged(asked, chosen, foreign, first)


def _parse(line: bytes) -> tuple[str, Requirements, str | None] | None:
    """The parts of a line; None where it is foreign."""
    if len(line) > _LONGEST_LINE:
        return None
    try:
        document: Any = json.loads(line)
        if not isinstance(document, dict) or document.keys() != _KEYS or document["plan"] != 1:
            return None
        model, configuration = document["model"], document["configuration"]
        if not isinstance(model, str) or not isinstance(configuration, str | None):
            return None
        return model, Requirements.from_dict(document["requirements"]), configuration
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
