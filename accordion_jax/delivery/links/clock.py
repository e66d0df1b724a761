"""The two clocks of delivery: the machine's, and a virtual one that costs no time to wait on.

Everything that waits or measures takes its clock as an argument, so an experiment over minutes of a
recorded link runs in milliseconds and gives the same figures each time.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What can say the time and wait."""

    def now(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Returns once `seconds` have passed."""


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Blocks the calling thread."""
        time.sleep(max(0.0, seconds))


class VirtualClock:
    """A clock that only moves when somebody sleeps on it. For one thread.

    Args:
      start_s: what it shows at first, in seconds.
    """

    def __init__(self, start_s: float = 0.0):
        self._now = start_s

    def now(self) -> float:
        """Seconds shown."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Moves the clock on, at once."""
        self._now += max(0.0, seconds)
