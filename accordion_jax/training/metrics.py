"""Metrics on disk."""

import json
import os
import pathlib
import sys
from typing import Any

from accordion_jax.runs.folder import METRICS_FILE
from accordion_jax.runs.metrics import read_metrics
from accordion_jax.system.files import write_whole


class MetricWriter:
    """Appends metrics to ``metrics.jsonl`` and to TensorBoard event files.

    What an interrupted run wrote after the step from which it goes on is dropped, so the file reads
    as that of an unbroken run.
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
        self._file = path.open("a", buffering=1)
        self._board = _summary_writer()(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Writes the numbers of one step.

        Args:
          step: taken so far.
          split: what they were measured on: "train", "validation" or "test".
          values: name -> number.
        """
        if self._file is None or self._board is None:
            return
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def _summary_writer() -> Any:
    """The class that writes TensorBoard's files, imported without PyTorch.

    Its package looks for PyTorch's tensors, which never come here; where PyTorch is installed, to
    load it takes more seconds than all else that the main job loads.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX

        return tensorboardX.SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
