"""Links: the exact time a transfer takes over a trace, and a throttled transport.

A trace is a piecewise constant rate. Its integral C(t) is the number of bits that the link carries
in its first t seconds; a transfer of b bits that starts at s ends at the smallest t with
C(t) >= C(s) + b. Both are evaluated in closed form, so there is no time step to choose, and an
outage of any length costs one look-up.
"""

import math
import pathlib
from collections.abc import Iterator, Mapping

import httpx
import numpy as np
import numpy.typing as npt

from accordion_jax.delivery.links.clock import Clock, RealClock
from accordion_jax.delivery.links.traces import Trace, constant, find_traces, read_trace
from accordion_jax.depth.policy_file import file_digests

_BUFFER_S = 1.0  # what a slow reader's socket takes in while it is busy


class Link:
    """A trace with its integral: how much it carries, and how long a transfer takes.

    Args:
      trace: the recording.
      loop: True goes on from the trace's start at its end; False carries nothing after it.
    """

    def __init__(self, trace: Trace, *, loop: bool = True):
        self.trace = trace
        self.loop = loop
        self._edges = np.array([*trace.times_s, trace.end_s])
        rates = np.array(trace.rates_bps)
        # _carried[i]: bits from time 0 until _edges[i].
        self._carried = np.concatenate([[0.0], np.cumsum(np.diff(self._edges) * rates)])

    @property
    def mean_bps(self) -> float:
        """Bits a second, averaged over the whole trace."""
        return float(self._carried[-1] / self._edges[-1])

    def capacity_bits(self, start_s: npt.ArrayLike, end_s: npt.ArrayLike) -> np.ndarray:
        """Returns the bits that the link carries between two times (arrays broadcast)."""
        return self._carried_until(end_s) - self._carried_until(start_s)

    def transfer_time(self, start_s: npt.ArrayLike, size_bytes: npt.ArrayLike) -> np.ndarray:
        """Returns how long transfers take, in seconds; infinity if they never end.

        Args:
          start_s: any shape, at least 0.
          size_bytes: any shape that broadcasts with it. Nothing takes no time.
        """
        start, bits = np.broadcast_arrays(
            np.asarray(start_s, float), 8.0 * np.asarray(size_bytes, float)
        )
        carried, total, period = self._carried, self._carried[-1], self._edges[-1]
        target = self._carried_until(start) + bits
        if total == 0:
            return np.where(bits > 0, math.inf, 0.0)
        if self.loop:
            # In (0, total]: a transfer that ends with the last bit of a round ends in that round,
            # not after the outage that the next may begin with.
            rounds = np.maximum(np.ceil(target / total) - 1, 0)
            target = target - rounds * total
        else:
            rounds = np.zeros_like(target)
        # The first edge at which enough is carried, so the interval before it has a rate above 0.
        after = np.clip(np.searchsorted(carried, target, side="left"), 1, len(carried) - 1)
        low, high = carried[after - 1], carried[after]
        t0, t1 = self._edges[after - 1], self._edges[after]
        share = np.divide(target - low, high - low, out=np.zeros_like(target), where=high > low)
        end = rounds * period + t0 + np.clip(share, 0.0, 1.0) * (t1 - t0)
        if not self.loop:
            end = np.where(target > total * (1 + 1e-12), math.inf, end)
        return np.where(bits > 0, np.maximum(end - start, 0.0), 0.0)

    def arrival(self, sizes_bytes: npt.ArrayLike, window_s: float) -> np.ndarray:
        """Returns [sizes] shares of all start times from which so many bytes are carried in a time.

        Over every moment of the trace as a start, outages included, and exact: what is carried from
        a start on is piecewise linear in it, with corners where the start or the end of the window
        meets an edge of the trace. The trace must loop.
        """
        sizes = np.atleast_1d(sizes_bytes).astype(float)
        if not self.loop:
            raise ValueError("of a trace that ends, later starts have less time; use loop=True")
        if window_s <= 0:
            return (sizes <= 0).astype(float)
        period = self._edges[-1]
        # Two that should be one may differ by rounding; what is between them weighs nothing.
        corners = np.unique(np.concatenate([self._edges, (self._edges - window_s) % period]))
        carried = self.capacity_bits(corners, corners + window_s)
        # A hair more: of a constant link all are equal but for rounding.
        carried = carried + 1e-12 * np.abs(self._carried_until(corners + window_s))
        lengths, ends = np.diff(corners), np.stack([carried[:-1], carried[1:]])
        low, high = ends.min(0)[:, None], ends.max(0)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(low >= 8 * sizes, 1.0, (high - 8 * sizes) / (high - low))
        share = np.where(high >= 8 * sizes, share, 0.0)
        return np.clip(lengths @ share / period, 0.0, 1.0)

    def _carried_until(self, time_s: npt.ArrayLike) -> np.ndarray:
        time, period = np.asarray(time_s, float), self._edges[-1]
        if not self.loop:
            return np.interp(time, self._edges, self._carried)
        rounds = np.floor(time / period)
        within = np.interp(time - rounds * period, self._edges, self._carried)
        return rounds * self._carried[-1] + within


def read_links(
    pattern: str, *, none_of: Mapping[str, str] | None = None
) -> tuple[list[pathlib.Path], list[Link]]:
    """Returns the files that `find_traces` finds, and the links that they are of.

    Args:
      pattern: a folder, a file or a glob pattern.
      none_of: digests by name (`file_digests`) of recordings that are tested on.

    Raises:
      FileNotFoundError: there are none.
      ValueError: one is no trace, as `read_trace`, or is tested on; names it.
    """
    paths = list(find_traces(pattern))
    for path in paths:
        if none_of and file_digests(path)[path.name] in none_of.values():
            raise ValueError(
                f"{path} is among the recordings that are tested on; choose on others than these"
            )
    return paths, [Link(read_trace(path)) for path in paths]


class ThrottledTransport(httpx.BaseTransport):
    """An httpx transport whose responses arrive at the pace of a link.

    With a `VirtualClock` and an inner transport that needs no network, hours of a trace pass in
    seconds of computing. With the real clock it slows a real connection: the application reads no
    faster than the link carries. The client's read timeout is honoured on the same clock, so an
    outage looks as it does to a real client.

    Response headers count as bytes; request bytes, and what TCP and IP add, do not.

    Args:
      inner: makes the responses, for instance ``httpx.HTTPTransport()``.
      link: gives the pace.
      clock: virtual or real.
      start_s: where in the trace the link is when this object is made.
      latency_s: from sending a request until the first byte of its response can arrive.

    Attributes:
      body_bytes: of response bodies passed on so far.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport,
        link: Link,
        *,
        clock: Clock | None = None,
        start_s: float = 0.0,
        latency_s: float = 0.0,
    ):
        self.inner = inner
        self.link = link
        self.clock = clock or RealClock()
        self.latency_s = latency_s
        self.body_bytes = 0
        # Bodies are passed on in pieces of about 5 ms: smooth, and cheap at any rate.
        self.piece_bytes = int(min(max(link.mean_bps / 8 * 0.005, 512), 65536))
        self._origin = self.clock.now() - start_s

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Returns the inner transport's response, its body on the link."""
        pace = _Pace(self, request.extensions.get("timeout", {}).get("read"))
        pace.wait_until(self.clock.now() + self.latency_s)
        response = self.inner.handle_request(request)
        pace.pass_bytes(sum(len(name) + len(value) + 4 for name, value in response.headers.raw))
        assert isinstance(response.stream, httpx.SyncByteStream)
        # A new response: one that was made from bytes would be read past its stream.
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_ThrottledStream(response.stream, pace),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Closes the inner transport."""
        self.inner.close()


class _Pace:
    """When the bytes of one response arrive."""

    def __init__(self, transport: ThrottledTransport, timeout_s: float | None):
        self._transport = transport
        self._timeout_s = timeout_s
        self._arrived_s = transport.clock.now() + transport.latency_s

    def pass_bytes(self, size_bytes: int) -> None:
        # From when the last bytes arrived, not from now: a reader that was busy meanwhile finds
        # what came in at the link's pace, as it would in a socket's buffer of a second.
        start = max(self._arrived_s, self._transport.clock.now() - _BUFFER_S)
        in_trace = max(start - self._transport._origin, 0.0)
        self._arrived_s = start + float(self._transport.link.transfer_time(in_trace, size_bytes))
        self.wait_until(self._arrived_s)

    def wait_until(self, moment: float) -> None:
        clock = self._transport.clock
        wait = moment - clock.now()
        limit = math.inf if self._timeout_s is None else self._timeout_s
        if wait > limit or math.isinf(wait):
            if math.isfinite(limit):
                clock.sleep(limit)
            raise httpx.ReadTimeout(
                f"the link {self._transport.link.trace.name!r} carried nothing for {limit:g} s"
            )
        if wait > 0:
            clock.sleep(wait)


class _ThrottledStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, pace: _Pace):
        self._inner = inner
        self._pace = pace

    def __iter__(self) -> Iterator[bytes]:
        transport = self._pace._transport
        for chunk in self._inner:
            for start in range(0, len(chunk), transport.piece_bytes):
                piece = chunk[start : start + transport.piece_bytes]
                self._pace.pass_bytes(len(piece))
                transport.body_bytes += len(piece)
                yield piece

    def close(self) -> None:
        self._inner.close()


def slowed(
    connection: httpx.BaseTransport,
    *,
    rate_bps: float | None = None,
    trace: str | None = None,
    latency_s: float = 0.0,
) -> httpx.BaseTransport:
    """Returns a connection as slow as a link; the connection itself where no link is given.

    Args:
      connection: for instance ``httpx.HTTPTransport()``.
      rate_bps: bits a second of a constant link.
      trace: path of the CSV file of a recorded one.
      latency_s: added to each request.

    Raises:
      ValueError: both links are given; or as `read_trace`.
      FileNotFoundError: there is no such trace.
    """
    if rate_bps is not None and trace is not None:
        raise ValueError(f"give rate_bps or trace, not both; got {rate_bps:g} and {trace!r}")
    if rate_bps is not None:
        link = Link(constant(rate_bps=rate_bps))
    elif trace is not None:
        link = Link(read_trace(trace))
    else:
        return connection
    return ThrottledTransport(connection, link, latency_s=latency_s)
