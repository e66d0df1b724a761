"""Metrics on disk."""

import contextlib
import json
import os
import pathlib
import sys
import time
from typing import Any

from accordion_jax.runs.folder import METRICS_FILE
from accordion_jax.runs.metrics import read_metrics
from accordion_jax.system.files import write_whole
from accordion_jax.system.room import room_for


class MetricWriter:
    """Appends metrics to ``metrics.jsonl`` and to TensorBoard event files.

    What an interrupted run wrote after the step from which it goes on is dropped, so the file reads
    as that of an unbroken run. A full disk is a `NoRoomError` wherever it shows.
    """

    def __init__(self, workdir: str | os.PathLike, step: int, *, enabled: bool = True):
        """Opens the files for appending.

        Args:
          workdir: of the run.
          step: from which the run goes on; records of later steps are dropped.
          enabled: False writes nothing, as on all processes but the first.
        """
        self._file = self._board = None
        if not enabled:
            return
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS_FILE
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._path = path
        with room_for(workdir / "tensorboard"):
            self._board = _Board(workdir / "tensorboard", step + 1 if step else None)
        self._file = path.open("a", buffering=1)

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Writes the numbers of one step.

        Args:
          step: taken so far.
          split: what they were measured on: "train", "validation" or "test".
          values: name -> number.
        """
        if self._file is None or self._board is None:
            return
        with room_for(self._path):
            self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with room_for(self._path.with_name("tensorboard")):
            self._board.write(step, {f"{split}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None and self._board is not None:
            with room_for(self._path), contextlib.closing(self._board):
                self._file.close()


class _Board:
    """One of TensorBoard's event files, written by the thread that calls.

    The package has a thread of its own for that, behind a short queue: it ends at the first error,
    as on a full disk, and then whoever has something to write waits for ever.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int | None):
        self._package = _tensorboard()
        events = self._package.proto.event_pb2
        folder.mkdir(parents=True, exist_ok=True)
        self._events = self._package.event_file_writer.EventsWriter(str(folder / "events"))
        if purge_step is not None:  # TensorBoard forgets what was written from there on
            start = events.SessionLog(status=events.SessionLog.START)
            self._add(events.Event(step=purge_step, session_log=start))
        self._events.flush()

    def write(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            summary = self._package.summary.scalar(name, value)
            self._add(self._package.proto.event_pb2.Event(step=step, summary=summary))
        self._events.flush()

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    def close(self) -> None:
        self._events.close()


def _tensorboard() -> Any:
    """The package that writes TensorBoard's files, imported without PyTorch.

    Its package looks for PyTorch's tensors, which never come here; where PyTorch is installed, to
    load it takes more seconds than all else that the main job loads.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
        import tensorboardX.proto.event_pb2

        return tensorboardX
    finally:
        if hidden:
            del sys.modules["torch"]
