"""A server in this process that answers as a test wants, and a device that asks it."""

import contextlib
import dataclasses

import httpx

from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport, Retries
from accordion_jax.delivery.links.clock import VirtualClock
from tests.delivery.servers import Served, is_of_front

URL = "http://odd"


@dataclasses.dataclass
class Answer:
    """What is sent: `body` in pieces, or bytes; a piece that is a number is seconds of waiting."""

    status: int = 200
    headers: dict = dataclasses.field(default_factory=dict)
    body: object = b""


class Odd(httpx.BaseTransport):
    """Answers as the bundle's endpoint does, but where `answer(request, right)` gives an Answer.

    Attributes:
      requests: as they came, but those for a front where there is none.
      taken_bytes: of bodies that the client took.
    """

    def __init__(self, bundle, answer, clock, front=None):
        self.served = Served(bundle)
        self.clock = clock
        self.requests = []
        self.taken_bytes = 0
        self._answer = answer
        self._front = front

    def handle_request(self, request):
        has_front = is_of_front(request.url.path) and self._front
        if has_front or not is_of_front(request.url.path):
            self.requests.append(request)
        if has_front:
            answer = self._front(request)
        else:
            segments = request.url.params.get("segments")
            path = request.url.path + (f"?segments={segments}" if segments else "")
            status, headers, body, _ = self.served.answer(path, request.headers.get("Range"))
            right = Answer(status, headers, body)
            answer = self._answer(request, right) or right
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Stream(self, answer.body)
        )


class _Stream(httpx.SyncByteStream):
    def __init__(self, odd, body):
        self._odd = odd
        self._body = body

    def __iter__(self):
        for piece in [self._body] if isinstance(self._body, bytes) else self._body:
            if isinstance(piece, bytes):
                self._odd.taken_bytes += len(piece)
                yield piece
            else:
                self._odd.clock.sleep(piece)


@contextlib.contextmanager
def odd_device(bundle, folder, answer=lambda *_: None, url=URL, front=None, **kwargs):
    """Yields (device, Odd) in virtual time; `front(request)` gives the Answer for all in one."""
    clock = VirtualClock()
    odd = Odd(bundle, answer, clock, front)
    with httpx.Client(transport=odd) as client:
        transport = HttpTransport(url, client=client, clock=clock, retries=Retries(3))
        device = Device(transport, SegmentCache(folder), clock=clock, **kwargs)
        yield device, odd
        device.close()
