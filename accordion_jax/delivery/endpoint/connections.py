"""Connections that are given up: those that ask for nothing, and those that take nothing.

uvicorn waits for the head of a request as long as it takes, and for a device that does not read.
Each such connection costs a file, of which a process has so many, and memory.
"""

import asyncio
import itertools
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0  # within which the head of a first request is here
STALL_S = 60.0  # without a byte taken, then a device has gone
_LOOK_EVERY_S = 5.0

# Clocks of event loops may stand still for a round.
_ORDER = itertools.count()


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, to a peer that has to get on with it.

    Attributes:
      most: connections; beyond them those that have waited longest for a request are closed, so
        that there is one for whoever asks for the health. None is no limit.
    """

    most: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to look after it."""
        super().connection_made(transport)
        # What a device does not take waits here once, and not for as long as there is room.
        transport.set_write_buffer_limits(high=0)
        self._unsent = 0
        self._still_since, self._idle_since = self.loop.time(), next(_ORDER)
        self._looking = self.loop.call_later(_LOOK_EVERY_S, self._look)
        if self.most is not None and len(self.connections) > self.most:
            self._close_the_longest_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends looking after it."""
        self._looking.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """From here on it is idle."""
        self._still_since, self._idle_since = self.loop.time(), next(_ORDER)
        super().on_response_complete()

    @property
    def _is_idle(self) -> bool:
        """Whether it has no request that is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if self._is_idle:
            # uvicorn itself closes one that is idle after an answer, but for bytes that drip.
            if now - self._still_since > HEAD_S:
                self.transport.abort()
                return
        elif unsent and unsent == self._unsent:
            if now - self._still_since > STALL_S:
                self.transport.abort()
                return
        else:
            self._still_since = now
        self._unsent = unsent
        self._looking = self.loop.call_later(_LOOK_EVERY_S, self._look)

    def _close_the_longest_idle(self) -> None:
        # Those that were closed in this round of the event loop are still among them.
        idle: list[Any] = [
            each
            for each in self.connections
            if isinstance(each, Connection) and each._is_idle and not each.transport.is_closing()
        ]
        if idle:
            min(idle, key=lambda each: each._idle_since).transport.abort()
