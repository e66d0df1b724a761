"""How much an endpoint takes on at once: beyond it, it says so at once."""

import json

from starlette.types import ASGIApp, Receive, Scope, Send

from accordion_jax.delivery.endpoint.store import CHUNK_BYTES

_ALWAYS = {"/healthz", "/metrics"}  # whoever watches over it must be answered most of all
_RETRY_AFTER_S = 2

# What waits to be sent to all devices together is about twice this, and twice LEAST_CHUNK_BYTES for
# each beyond the first few hundred.
_BUFFERS_BYTES = 8 << 20
LEAST_CHUNK_BYTES = 32 << 10
# Of an answer that is read and sent in one piece, and kept so for a device that does not take it.
SMALL_BYTES = 2 * LEAST_CHUNK_BYTES


def chunk_bytes(in_flight: int) -> int:
    """Returns how much of a segment to read at a time for one of many devices.

    A large chunk costs fewer changes of threads; one that a stalled device does not take stays in
    memory, and the next one with it. A thousand stalled devices hold about 110 MB.

    Args:
      in_flight: answers of segments that are being sent, this one included.
    """
    share = _BUFFERS_BYTES // max(in_flight, 1)
    return max(LEAST_CHUNK_BYTES, min(share, CHUNK_BYTES))


class Admission:
    """ASGI middleware that answers 503 where too many requests are being answered already.

    Args:
      app: answers the others.
      most: requests at once, those of `/healthz` and `/metrics` not counted.
    """

    def __init__(self, app: ASGIApp, most: int):
        self._app = app
        self._most = most
        self._taken = 0

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
            await self._app(scope, receive, send)
        finally:
            self._taken -= 1


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
