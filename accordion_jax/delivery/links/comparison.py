"""Whether one method is at or below all others at every moment, and if not, by how much and why."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.links.replay import Curve, Method

# What is compared: the mean over requests, the median, and that above which a tenth of them are.
STATISTICS = ("mean", "median", "worst tenth")


@dataclasses.dataclass(frozen=True)
class Behind:
    """Where a method is behind a rival.

    Attributes:
      rival: its name.
      statistic: of `STATISTICS`.
      by: the most that its error is above the rival's, 0 to 1; the tolerance not taken off.
      at_s: when that is.
      first_s: the first moment at which it is behind by more than the tolerance.
      last_s: the last one.
      error: of the method at `at_s`, with its slack of time.
      rival_error: at `at_s`.
    """

    rival: str
    statistic: str
    by: float
    at_s: float
    first_s: float
    last_s: float
    error: float
    rival_error: float


def lines_of(curve: Curve) -> dict[str, np.ndarray]:
    """Returns the error of each of `STATISTICS`, [times]."""
    return dict(zip(STATISTICS, (curve.mean, *curve.quantiles[1:]), strict=True))


def behind(
    late: Curve, rivals: Sequence[Curve], times_s: np.ndarray, *, tolerance: float
) -> list[Behind]:
    """Returns each rival and statistic to which a method is behind, the largest gap first.

    Args:
      late: the method at times that are a little later than `times_s`: its slack.
      rivals: at `times_s`.
      times_s: [times].
      tolerance: in error, that does not count.
    """
    found = []
    ours = lines_of(late)
    for rival in rivals:
        for statistic, theirs in lines_of(rival).items():
            gap = ours[statistic] - theirs
            worse = np.flatnonzero(gap > tolerance + 1e-12)
            if not worse.size:
                continue
            at = int(np.argmax(gap))
            found.append(
                Behind(
                    rival.method.name,
                    statistic,
                    float(gap[at]),
                    float(times_s[at]),
                    float(times_s[worse[0]]),
                    float(times_s[worse[-1]]),
                    float(ours[statistic][at]),
                    float(theirs[at]),
                )
            )
    return sorted(found, key=lambda each: -each.by)


def why(ours: Method, rival: Method, tolerance: float) -> str:
    """Returns what of a rival our method has no answer to, in bytes and errors; "" if nothing.

    Args:
      ours: the method.
      rival: another.
      tolerance: in error, that does not count.
    """
    worst: tuple[float, int, float, float] | None = None
    for size, error in zip(rival.sizes_bytes, rival.errors, strict=True):
        held = [e for s, e in zip(ours.sizes_bytes, ours.errors, strict=True) if s <= 1.05 * size]
        best = min(held, default=1.0)
        if best - error > tolerance and (worst is None or best - error > worst[0]):
            worst = (best - error, size, error, best)
    if worst is None:
        return ""
    _, size, error, best = worst
    has = f"{ours.name} has {100 * best:.1f} %" if best < 1 else f"{ours.name} has nothing"
    return f"{size / 1e3:.1f} kB with {100 * error:.1f} %, where {has} within 1.05 of the bytes"


def leaders(rivals: Sequence[Curve]) -> list[Curve]:
    """Returns the rivals that are the best of all at some moment by some statistic, in order."""
    chosen: set[int] = set()
    for statistic in STATISTICS if rivals else ():
        lines = np.array([lines_of(curve)[statistic] for curve in rivals])
        best = lines.min(axis=0)
        for column in np.flatnonzero(best < best.max()):
            if not any(lines[i, column] <= best[column] + 1e-12 for i in chosen):
                chosen.add(int(np.argmin(lines[:, column])))
    return [curve for i, curve in enumerate(rivals) if i in chosen]


def as_rows(found: Mapping[float, Sequence[Behind]]) -> list[dict[str, Any]]:
    """Returns JSON-able rows: of each round trip in seconds, what `behind` returned."""
    return [
        {"round_trip_s": round_trip_s, **dataclasses.asdict(each)}
        for round_trip_s, rows in found.items()
        for each in rows
    ]
