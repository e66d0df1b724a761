"""Traces: the throughput of a link over time, recorded or made up."""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

_COLUMNS = ("time_s", "downlink_mbps")


@dataclasses.dataclass(frozen=True)
class Trace:
    """Throughput of a link over time.

    Attributes:
      name: for reports, for instance the file's name.
      times_s: [n] strictly increasing, the first is 0. ``rates_bps[i]`` holds from ``times_s[i]``
        until the next time, the last until `end_s`.
      rates_bps: [n] bits a second, at least 0; 0 is an outage.
      end_s: where the recording ends.

    Raises:
      ValueError: the arrays do not fit together, times do not increase from 0, or a rate is
        negative or not finite; names the trace, the index and the value.
    """

    name: str
    times_s: tuple[float, ...]
    rates_bps: tuple[float, ...]
    end_s: float

    def __post_init__(self):
        if not self.times_s or len(self.times_s) != len(self.rates_bps):
            raise ValueError(
                f"trace {self.name!r} has {len(self.times_s)} times and {len(self.rates_bps)} "
                "rates; wanted as many of each, at least one"
            )
        if self.times_s[0] != 0:
            raise ValueError(f"trace {self.name!r} starts at {self.times_s[0]} s; wanted 0")
        ends = (*self.times_s[1:], self.end_s)
        for index, (time, end, rate) in enumerate(
            zip(self.times_s, ends, self.rates_bps, strict=True)
        ):
            if not (math.isfinite(end) and end > time):
                raise ValueError(
                    f"trace {self.name!r}: interval {index} goes from {time} s to {end} s; "
                    "times must increase"
                )
            if not (math.isfinite(rate) and rate >= 0):
                raise ValueError(
                    f"trace {self.name!r}: rate {index} is {rate} bit/s; wanted finite, at least 0"
                )


def constant(*, rate_bps: float) -> Trace:
    """Returns the trace of a link of one rate, in bits a second."""
    return Trace(f"{rate_bps / 1e6:g} Mbit/s", (0.0,), (rate_bps,), 1.0)


def read_trace(path: str | os.PathLike) -> Trace:
    """Reads a CSV file with the columns ``time_s`` and ``downlink_mbps``; others are ignored.

    A rate holds until the time of the next row; the last for the median interval. Phones log
    irregularly: rows that repeat a time are averaged into one, gaps keep the rate before them.
    The first time becomes 0.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a column is missing, a field is not a number, a time goes back or a rate is
        negative; names the file, the line and the value.
    """
    path = pathlib.Path(path)
    try:
        rates_at = _read_rates(path)
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error
    if not rates_at:
        raise ValueError(f"{path} has no rows; a trace needs at least one")
    times = [time - min(rates_at) for time in rates_at]
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return Trace(
        path.stem,
        tuple(times),
        tuple(math.fsum(rates) / len(rates) for rates in rates_at.values()),
        times[-1] + step,
    )


def _read_rates(path: pathlib.Path) -> dict[float, list[float]]:
    """Time of each row, in order -> its rates in bits a second."""
    rates_at: dict[float, list[float]] = {}
    last = -math.inf
    # With the mark that spreadsheets put first, and the spaces that people put between.
    with path.open(newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in _COLUMNS if name not in reader.fieldnames]
        if missing:
            raise ValueError(
                f"{path} has the columns {reader.fieldnames}; it lacks {missing[0]!r}. "
                f"A trace is a CSV file whose first line is {','.join(_COLUMNS)}"
            )
        for row in reader:
            time, mbps = (_number(path, reader.line_num, name, row[name]) for name in _COLUMNS)
            if time < last:
                raise ValueError(
                    f"{path}, line {reader.line_num}: time_s={time} comes after {last}; sort the "
                    "rows by time"
                )
            if mbps < 0:
                raise ValueError(
                    f"{path}, line {reader.line_num}: downlink_mbps={mbps} is negative; an outage "
                    "is 0"
                )
            rates_at.setdefault(time, []).append(mbps * 1e6)
            last = time
    return rates_at


def _number(path: pathlib.Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}, line {line}: {name}={text!r} is not a finite number")
    return value


def find_traces(pattern: str) -> Sequence[pathlib.Path]:
    """Returns the CSV files of a folder or a glob pattern, sorted by name, or one file.

    Raises:
      FileNotFoundError: there are none; names the pattern.
    """
    path = pathlib.Path(pattern)
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
    elif path.is_file():  # its name may look like a pattern
        found = [path]
    else:
        anchor = pathlib.Path(path.anchor) if path.anchor else pathlib.Path()
        relative = path.relative_to(path.anchor) if path.anchor else path
        found = sorted(anchor.glob(str(relative)))
    if not found:
        raise FileNotFoundError(
            f"no traces at {pattern!r}; wanted a folder of CSV files, or a pattern such as "
            "traces/*.csv (quote it, so that the shell leaves it alone)"
        )
    return found
