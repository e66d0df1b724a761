"""The metrics of a run, read back: its records, and when it had reached an error."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.runs.folder import CONFIG_FILE, METRICS_FILE
from accordion_jax.runs.sessions import seconds_spent
from accordion_jax.system.files import read_json

MOST_LEFT_OUT = 0.05  # of a policy, in depths that were not measured while training

_OF_DEPTH = re.compile(r"error_depth_(\d+)")


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of a ``metrics.jsonl``; a last line cut by a crash is left out."""
    path = pathlib.Path(path)
    records = []
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
    return records


@dataclasses.dataclass(frozen=True)
class Convergence:
    """How the error of a run came down.

    Attributes:
      steps: [evaluations] at which it was measured.
      seconds: [evaluations] of training until then, by the rates among the metrics; evaluations,
        checkpoints and compilations are not in it.
      errors: [evaluations]; None where it was not measured.
      spent_s: all that the run's processes took, as a grid has recorded it; None without one.
    """

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    errors: tuple[float | None, ...]
    spent_s: float | None

    def until(self, error: float) -> tuple[float, int] | None:
        """Returns (seconds, step) of the first evaluation at or under an error; None before it."""
        for second, step, each in zip(self.seconds, self.steps, self.errors, strict=True):
            if each is not None and each <= error:
                return second, step
        return None


def convergence(
    workdir: str | os.PathLike, weights: Mapping[int, float] | None = None
) -> Convergence:
    """Returns how the error of a run came down.

    Args:
      workdir: of a run that was evaluated in the middle of training.
      weights: blocks -> probability, to weigh the errors of the depths by: the same for all runs
        that are compared. Metrics have some depths; between two of them the error is taken to be
        linear. Those outside of them, such as the base alone, are left out where they weigh no
        more than `MOST_LEFT_OUT`; else the error is not known. None takes the run's own policy, all
        of whose depths were measured.

    Raises:
      ValueError: the run has no evaluations, or a file of it is damaged; names it.
    """
    workdir = pathlib.Path(workdir)
    records = read_metrics(workdir / METRICS_FILE)
    evaluations = [each for each in records if each.get("split") != "train" and "error" in each]
    config = read_json(workdir / CONFIG_FILE).get("config", {})
    batch_size = config.get("train", {}).get("batch_size")
    if not evaluations or not batch_size:
        raise ValueError(
            f"{workdir} has no errors measured while it was trained: wanted its {CONFIG_FILE}, and "
            f"records of a split beside 'train' in {METRICS_FILE} (config.run.eval_every_epochs)"
        )
    train = [each for each in records if each.get("split") == "train"]
    at = [0, *(each["step"] for each in train)]
    windows = [
        (step - before) * batch_size / each["images_per_second"]
        for each, (before, step) in zip(train, itertools.pairwise(at), strict=True)
    ]
    seconds = np.concatenate([[0.0], np.cumsum(windows)])
    steps = tuple(each["step"] for each in evaluations)
    spent_s = seconds_spent(workdir)
    return Convergence(
        steps=steps,
        seconds=tuple(np.interp(steps, at, seconds).tolist()),
        errors=tuple(_error(each, weights) for each in evaluations),
        spent_s=spent_s or None,
    )


def _error(record: Mapping[str, Any], weights: Mapping[int, float] | None) -> float | None:
    if weights is None:
        return record["error"]
    found = {int(m[1]): value for name, value in record.items() if (m := _OF_DEPTH.fullmatch(name))}
    depths = sorted(found)
    within = {d: w for d, w in weights.items() if depths and depths[0] <= d <= depths[-1]}
    measured = math.fsum(within.values())
    if measured < (1 - MOST_LEFT_OUT) * math.fsum(weights.values()):
        return None
    errors = np.interp(list(within), depths, [found[depth] for depth in depths])
    return float(errors @ np.array(list(within.values()))) / measured


def convergence_table(runs: Mapping[str, Convergence], errors: Sequence[float], of: str) -> str:
    """Returns a Markdown table: seconds of training until each error was reached.

    Args:
      runs: by label.
      errors: to reach.
      of: what the error is.
    """
    columns = " | ".join(f"{100 * error:g} %" for error in errors)
    lines = [
        f"| seconds of training until {of} | {columns} | last | trained | in all |",
        "| --- " * (len(errors) + 4) + "|",
    ]
    for label, run in runs.items():
        reached = [run.until(error) for error in errors]
        cells = [f"{each[0]:.0f} s (step {each[1]})" if each else "-" for each in reached]
        last = run.errors[-1]
        cells.append("not measured" if last is None else f"{100 * last:.2f} %")
        cells.append(f"{run.seconds[-1]:.0f} s")
        cells.append(f"{run.spent_s:.0f} s" if run.spent_s else "-")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
