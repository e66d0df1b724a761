"""Noticing that the process is told to stop."""

import contextlib
import logging
import signal

import jax
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)


class Stop:
    """Notices SIGTERM and SIGINT, so that the state is saved before the process ends.

    With several processes JAX's own preemption service agrees on the step at which all stop.
    """

    def __init__(self):
        self._asked = False
        self._old = {}

    def __enter__(self) -> "Stop":
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(ValueError):  # not in the main thread
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        _log.info("%s: saves at the end of this step, then stops", signal.Signals(number).name)

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; the same on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
