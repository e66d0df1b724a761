"""Progress on the screen: one bar on a terminal; elsewhere a log line now and then."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import tqdm

_log = logging.getLogger(__name__)


class Progress:
    """One progress bar on a terminal; elsewhere a log line now and then.

    Shows how much is done, the rate, and the time left.
    """

    def __init__(
        self,
        what: str,
        total: int,
        done: int = 0,
        *,
        unit: str = "step",
        scale: int = 1,
        scaled_unit: str = "images",
        every_s: float = 30.0,
        enabled: bool = True,
    ):
        """Starts the clock.

        Args:
          what: is going on, for the label.
          total: units of work.
          done: units done before this process.
          unit: what is counted.
          scale: `scaled_unit` in one unit, for a rate in those; 1 shows the units alone.
          scaled_unit: for instance "images".
          every_s: seconds between two log lines where there is no terminal.
          enabled: False is silent, as on all processes but the first.
        """
        self._what, self._total, self._unit = what, total, unit
        self._scale, self._scaled_unit, self._every_s = scale, scaled_unit, every_s
        self._done = self._logged_done = done
        self._enabled = enabled
        self._logged = time.monotonic()
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, smoothing=0.05
            )

    def update(self, done: int, **shown: str) -> None:
        """Says that `done` units are done.

        Args:
          done: units so far.
          **shown: more to show, such as ``loss="1.23"``.
        """
        advanced, self._done = done - self._done, done
        if self._bar is not None:
            if self._scale > 1:
                rate = (self._bar.format_dict["rate"] or 0) * self._scale
                shown[f"{self._scaled_unit}/s"] = f"{rate:.0f}"
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(advanced)
            return
        now = time.monotonic()
        if self._enabled and (now - self._logged >= self._every_s or done == self._total):
            # Over the last interval: the first one also holds compilations.
            rate = (done - self._logged_done) / max(now - self._logged, 1e-9)
            self._logged, self._logged_done = now, done
            left = (self._total - done) / rate if rate else float("inf")
            fields = [f"{self._what}: {self._unit} {done}/{self._total}"]
            fields += [f"{name} {value}" for name, value in shown.items()]
            if self._scale > 1:
                fields.append(f"{rate * self._scale:.0f} {self._scaled_unit}/s")
            fields.append(f"{duration(left)} left")
            _log.info("%s", ", ".join(fields))

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def progress(*args: Any, **kwargs: Any) -> Iterator[Progress]:
    """A `Progress` that is closed at the end."""
    bar = Progress(*args, **kwargs)
    try:
        yield bar
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """Returns a time in words, for instance ``1 h 02 min`` or ``35 s``."""
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
