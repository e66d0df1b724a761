"""How the benchmarks time: work that is compared runs in turn, and ratios are taken pair by pair.

In turn, so that a machine whose speed drifts slows all of it alike.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Sample:
    """A quantity that was measured several times; prints as its median (least to most).

    Attributes:
      values: one a repeat; repeat i of two samples that were taken in turn ran side by side.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the values."""
        return statistics.median(self.values)

    def per(self, other: "Sample") -> "Sample":
        """Returns the quotients of these values and another's, pair by pair."""
        return Sample(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def times(self, factor: float) -> "Sample":
        """Returns the values in another unit, of which there are so many in one of theirs."""
        return Sample(tuple(factor * value for value in self.values))

    def rate(self, amount: float) -> "Sample":
        """Returns so much a second, where the values are the seconds that the amount took."""
        return Sample(tuple(amount / seconds for seconds in self.values))

    def __format__(self, spec: str) -> str:
        least, most = min(self.values), max(self.values)
        return f"{self.median:{spec}} ({least:{spec}} to {most:{spec}})"


def clocked(
    work: Callable[[], object], clock: Callable[[], float] | None = None
) -> Callable[[], float]:
    """Returns a function that does the work (done when it returns), and returns the seconds.

    Args:
      work: is called with nothing.
      clock: gives seconds; `time.process_time` and `time.thread_time` those of the processor. None
        is `time.perf_counter`.
    """
    clock = clock or time.perf_counter

    def timed() -> float:
        started = clock()
        work()
        return clock() - started

    return timed


def interleaved(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Sample]:
    """Returns the seconds of each run of each function, taken in turn; who begins alternates.

    Each is called once before, uncounted.

    Args:
      runs: name -> function that does its work and returns its seconds, as `clocked` makes one.
      repeats: counted runs of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for repeat in range(repeats):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            seconds[name].append(runs[name]())
    return {name: Sample(tuple(values)) for name, values in seconds.items()}
