"""How much an endpoint takes on at once: what waits, and beyond that it says so at once."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accordion_jax.delivery.endpoint.store import CHUNK_BYTES

_ALWAYS = {"/healthz", "/metrics"}  # whoever watches over it must be answered most of all
_RETRY_AFTER_S = 2

# Answers that are being prepared at once. A thousand requests that came together would each have a
# turn in every round of the event loop, and whoever asks for the health waits some rounds.
_AT_WORK = 32

_THREADS = 8

# What waits to be sent to all devices together is about seven times this, and twice
# LEAST_CHUNK_BYTES for each beyond the first 64.
_BUFFERS_BYTES = 2 << 20
LEAST_CHUNK_BYTES = 32 << 10
# Of an answer that is read and sent in one piece, and kept so for a device that does not take it.
SMALL_BYTES = 2 * LEAST_CHUNK_BYTES


def chunk_bytes(in_flight: int) -> int:
    """Returns how much of a segment to read at a time for one of many devices.

    A large chunk costs fewer changes of threads; one that a stalled device does not take stays in
    memory, and the next one with it. A thousand stalled devices hold about 75 MB so.

    Args:
      in_flight: answers of segments that are being sent, this one included.
    """
    share = _BUFFERS_BYTES // max(in_flight, 1)
    return max(LEAST_CHUNK_BYTES, min(share, CHUNK_BYTES))


@contextlib.asynccontextmanager
async def few_threads(_app: object) -> AsyncIterator[None]:
    """Lifespan of an application that reads local files: they need few threads.

    Of more, each would want its turn between any two steps of the event loop.
    """
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield


class Admission:
    """ASGI middleware that answers 503 where too many requests are being answered already.

    Of those it takes, a few are prepared at a time, in the order in which they came; an answer that
    has begun is sent beside them. `/healthz` and `/metrics` wait for no other.

    Args:
      app: answers the others.
      most: requests at once, those of `/healthz` and `/metrics` not counted.
    """

    def __init__(self, app: ASGIApp, most: int):
        self._app = app
        self._most = most
        self._taken = 0
        self._at_work = asyncio.Semaphore(_AT_WORK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        if self._taken >= self._most:
            await _refuse(send)
            return
        self._taken += 1
        try:
            await self._prepare(scope, receive, send)
        finally:
            self._taken -= 1

    async def _prepare(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; it is at work until its answer begins, or its body is waited for."""
        working = answering = False

        async def begin() -> None:
            nonlocal working
            if not working:
                await self._at_work.acquire()
                working = True

        def end() -> None:
            nonlocal working
            if working:
                self._at_work.release()
                working = False

        async def received() -> Message:
            end()  # a device may take its time
            message = await receive()
            if not answering:
                await begin()
            return message

        async def sent(message: Message) -> None:
            nonlocal answering
            answering = True
            end()
            await send(message)

        await begin()
        try:
            await self._app(scope, received, sent)
        finally:
            end()


async def _refuse(send: Send) -> None:
    body = json.dumps({"error": "too many requests at once; ask again soon"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(_RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
