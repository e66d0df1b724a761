"""Receives segments: from the connection, checked, into the cache."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.device.cache import Download, SegmentCache
from accordion_jax.delivery.device.throughput import ThroughputMeter
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import SegmentError
from accordion_jax.delivery.links.clock import Clock

_WAITED_S = 0.002  # a read that takes longer has waited for the network
_POLL_S = 0.02  # how often to look for segments that another process is loading


class Receiver:
    """Receives segments in order, each once, however many processes share the cache.

    Args:
      transport: where they come from.
      cache: where they go.
      clock: of the deadline and the throughput.
      throughput: is told what arrives.
      stopped: whether to end now.
      on_bytes: is called with the size of each piece that the cache has taken.
      on_segment: is called with the digest of each segment that is whole and checked, and with the
        bytes that have come and are not in the cache yet; returns the
        segments that are wanted from then on.
    """

    def __init__(
        self,
        transport: HttpTransport,
        cache: SegmentCache,
        clock: Clock,
        throughput: ThroughputMeter,
        *,
        stopped: Callable[[], bool],
        on_bytes: Callable[[int], None],
        on_segment: Callable[[str, int], Sequence[Segment]],
    ):
        self.transport = transport
        self.cache = cache
        self.clock = clock
        self.throughput = throughput
        self._stopped = stopped
        self._on_bytes = on_bytes
        self._on_segment = on_segment
        self._catches_up = False

    def over(self, until_s: float) -> bool:
        """Whether it is time to end."""
        return self._stopped() or self.clock.now() >= until_s

    def receive(
        self, missing: Sequence[Segment], until_s: float, *, one_at_a_time: bool = False
    ) -> None:
        """Receives segments in order, until all are here, others are wanted, or time is over.

        Args:
          missing: not empty.
          until_s: moment of the clock at which to end. What has arrived by then stays in the cache.
          one_at_a_time: asks for the first one only. A bad segment late in a stream must not hold
            back the good ones before it.

        Raises:
          SegmentError: a segment is not what the manifest promised.
          CacheError: the cache cannot take one.
          TransportError: the other side cannot be reached.
        """
        if self._take_over(missing):
            return
        with self.cache.claim([segment.sha256 for segment in missing]) as mine:
            # Another process may have finished one just before the claim.
            if self._take_over(missing):
                return
            if not mine:
                self.transport.go_on(None)  # another process has them from its own answer
                self.clock.sleep(_POLL_S)
                return
            self.throughput.begin(self.clock.now())
            try:
                self._receive_batch(
                    self._batch(missing[: 1 if one_at_a_time else len(mine)]), until_s
                )
            finally:
                self.throughput.end(self.clock.now())

    def _batch(self, segments: Sequence[Segment]) -> Sequence[Segment]:
        """The first of these segments, as many as one read may ask for."""
        for index, segment in enumerate(segments):
            # A read starts inside its first segment only: the next partial one begins another.
            if index and self.cache.received_bytes(segment.sha256):
                return segments[:index]
        return segments

    def _receive_batch(self, batch: Sequence[Segment], until_s: float) -> None:
        with contextlib.ExitStack() as stack:
            source: _Source | None = None
            for number, segment in enumerate(batch, 1):
                with self.cache.download(segment.sha256, segment.size_bytes) as download:
                    if source is None:
                        # What came before anybody read it says nothing of how fast it came: the
                        # link is measured from the first byte on that had to be waited for.
                        self._catches_up = self.transport.is_under_way(
                            segment, download.received_bytes
                        )
                        chunks = self.transport.read(
                            batch, offset=download.received_bytes, until_s=until_s
                        )
                        source = _Source(stack.enter_context(contextlib.closing(chunks)))
                    try:
                        if not self._fill(download, source, until_s):
                            return
                        download.finish()
                    except SegmentError:
                        # Perhaps what was here before is what is wrong: begin anew next time.
                        download.discard()
                        raise
                wanted = self._on_segment(segment.sha256, len(source.rest))
                if number < len(batch) and wanted[:1] != (batch[number],):
                    self._keep(source.rest, batch[number])
                    return

    def _keep(self, rest: bytes, segment: Segment) -> None:
        """Puts what came of a segment that is not wanted now where it counts later."""
        if rest:
            with self.cache.download(segment.sha256, segment.size_bytes) as download:
                download.write(rest[: download.missing_bytes])

    def _fill(self, download: Download, source: "_Source", until_s: float) -> bool:
        """Receives the rest of a segment; returns whether all of it came before the end."""
        while download.missing_bytes:
            if self.over(until_s) and not source.rest:
                return False
            before_s = self.clock.now()
            chunk = source.take(download.missing_bytes)
            if not chunk:
                return False
            now_s = self.clock.now()
            if not self._catches_up:
                self.throughput.add(now_s, len(chunk))
            elif now_s - before_s > _WAITED_S:
                self._catches_up = False
                self.throughput.begin(now_s)
            download.write(chunk)
            self._on_bytes(len(chunk))
        return True

    def _take_over(self, missing: Sequence[Segment]) -> bool:
        """Holds what another process has loaded in the meantime; returns whether there was any."""
        found = False
        for segment in missing:
            if not (self.cache.path(segment.sha256).exists() and self.cache.verify(segment.sha256)):
                break
            self._on_segment(segment.sha256, 0)
            found = True
        return found


class _Source:
    """Chunks, of which as much can be taken as is wanted; `rest` is here, but not yet taken."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self.rest = b""

    def take(self, at_most: int) -> bytes:
        """Returns the next bytes; none once there are no more."""
        chunk = self.rest or next(self._chunks, b"")
        self.rest = chunk[at_most:]
        return chunk[:at_most]
