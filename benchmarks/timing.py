"""How the benchmarks time: medians of interleaved runs."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each run of each function, taken in turn.

    In turn, so that a machine whose speed drifts slows all of them alike. Each is called once
    before, uncounted.

    Args:
      runs: name -> function; it returns when its work is done.
      repeats: counted runs of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for function in runs.values():
        function()
    for _ in range(repeats):
        for name, function in runs.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(of: list[float], to: list[float]) -> float:
    """Returns the median of the ratios pair by pair."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))
