"""HTTP to whatever carries a bundle: our endpoint, or any static web server, object store or CDN.

The first request is answered with a *front*: the manifest, and the segments after it. The endpoint
plans which these are, and sends more in one *stream*; a static server has a front with the smallest
configuration, and is asked for one segment after another on one connection. Either way the caller
reads one sequence of bytes, and an interruption anywhere in it is mended here with a Range request
from the first byte that is missing.

No JAX, and no thread: a device of any kind may use it.
"""

import dataclasses
import math
import re
from collections.abc import Generator, Iterator, Sequence

import httpx

from accordion_jax.delivery.bundle.front import FRONT_NAME
from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, is_digest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.bundle.reading import segment_name
from accordion_jax.delivery.device import answers
from accordion_jax.delivery.device.address import Address
from accordion_jax.delivery.device.connection import Connection, environment_client
from accordion_jax.delivery.device.opening import OpenAnswer, Opening
from accordion_jax.delivery.device.retries import Retries
from accordion_jax.delivery.errors import (
    ConnectionLostError,
    RefusedError,
    SegmentError,
)
from accordion_jax.delivery.links.clock import Clock, RealClock
from accordion_jax.delivery.trust.documents import MAX_RELEASE_BYTES, RELEASE_NAME

# Compression on the way would make the offsets those of other bytes.
_PLAIN = {"Accept-Encoding": "identity"}
# What may fail for many segments in one request, and not for each of them.
_ALONE = {400, 404, 413, 414, 431}
_STREAM_SEGMENTS = 64  # 64 digests keep the address under 4,200 characters, which servers accept
_PROGRESS_BYTES = 512  # fewer in an attempt are no progress: a byte a connection never ends


class HttpTransport:
    """Reads a manifest and segments over HTTP.

    Args:
      url: of an endpoint (``http://host:8000``), of one of its models
        (``http://host:8000/v1/models/ID``), or of a bundle's folder or manifest on a static server
        (``https://cdn/bundles/ID/manifest.json``). Its query goes with every request, as signed
        URLs need, and into no message.
      client: an `httpx.Client`, whose transport may be a throttled or an in-process one; the caller
        closes it. None makes one that goes through the proxies of the environment.
      timeout_s: without a byte, before a connection counts as lost.
      retries: how long to keep trying.
      clock: waits between attempts.

    Attributes:
      body_bytes: of segment bodies received so far, thrown away ones included.
      other_bytes: of the bodies of manifests and releases received so far.

    Raises:
      ValueError: the URL is not one of http or https.
      TransportError: the proxy settings of the environment cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        client: httpx.Client | None = None,
        timeout_s: float = 10.0,
        retries: Retries | None = None,
        clock: Clock | None = None,
    ):
        self.address = Address.parse(url)
        self.clock = clock or RealClock()
        self.body_bytes = 0
        self.other_bytes = 0
        self._own_client = client is None
        client = client or environment_client()
        self._connection = Connection(client, timeout_s, retries or Retries(), self.clock)
        # Where the manifest was found; segments are beside it.
        self._root: Address | None = None
        self._plans = False
        self._opened: OpenAnswer | None = None

    @property
    def model_id(self) -> str | None:
        """The one model that the URL names; None if it leaves that open."""
        last = self.address.without("/manifest.json").path.rpartition("/")[2]
        return last if is_digest(last) else None

    @property
    def streams(self) -> bool:
        """Whether the other side is an endpoint, which plans and streams."""
        return self._plans

    def open(
        self, model_id: str, opening: Opening, *, until_s: float = math.inf
    ) -> OpenAnswer | None:
        """Asks for all that is wanted first, in one request; returns the answer as it arrives.

        Args:
          model_id: of the wanted model, or ``latest``.
          opening: what an endpoint is told. A static server sends the same to all, so it is not
            asked where the manifest is known.
          until_s: moment of the clock at which to give up.

        Returns:
          The answer, for the caller to check, and to close or to `go_on` with; None where no front
          is to be had: ask for the manifest alone.

        Raises:
          ConnectionLostError: as `manifest`.
          ManifestError, TransportError: what is sent is no front, or cannot be read.
        """
        for root, plans in self._candidates(model_id):
            if opening.known and not plans:
                continue
            body = opening.to_bytes() if plans else None
            query = self._line_query(plans, opening.line, model_id)
            address = root.under(FRONT_NAME)

            def ask(address=address, query=query, body=body) -> OpenAnswer:
                return self._open_once(address, query, body, until_s)

            try:
                answer = self._connection.patiently(ask, until_s)
            except RefusedError:
                continue
            self._root, self._plans = root, plans
            return answer
        return None

    def go_on(self, answer: OpenAnswer | None) -> None:
        """What follows in this answer need not be asked for; closes the one before."""
        if self._opened is not None:
            self._opened.close()
        self._opened = answer

    def is_under_way(self, segment: Segment, offset: int) -> bool:
        """Whether the answer that is open goes on with this byte of this segment."""
        return self._opened is not None and self._opened.goes_on_with(segment, offset)

    def manifest(
        self,
        model_id: str = "latest",
        *,
        known: str | None = None,
        line: str | None = None,
        until_s: float = math.inf,
    ) -> bytes | None:
        """Returns the manifest as sent; None if it is that of the model `known`.

        Args:
          model_id: of the wanted model, or ``latest``. A static server knows no latest: there the
            URL names the bundle.
          known: model_id of a manifest that the caller has. An endpoint then need not send it
            again; a static server does.
          line: whose latest is wanted; an endpoint may have several.
          until_s: moment of the clock at which to give up.

        Raises:
          ConnectionLostError: the server cannot be reached, after all retries or by `until_s`.
          RefusedError: it has no such model.
          TransportError: the answer is larger than any manifest, or coded in an unknown way.
        """
        refusals = []
        for root, plans in self._candidates(model_id):
            address = root if plans else root.under("manifest.json")
            query = self._line_query(plans, line, model_id)
            try:
                content = self._get(address, query, known=known if plans else None, until_s=until_s)
            except RefusedError as error:
                refusals.append(str(error))
                continue
            self._root, self._plans = root, plans
            return content
        raise RefusedError(
            f"no manifest of model {model_id!r} at {self.address}: {'; '.join(refusals)}. The URL "
            "must be that of an endpoint, or of a bundle's folder on a web server"
        )

    def release(self, model_id: str, *, until_s: float = math.inf) -> bytes:
        """Returns the release file of the model whose manifest was found; it is not checked.

        Raises:
          TransportError: as `manifest`.
        """
        self.choose(model_id)
        assert self._root is not None
        address = self._root.under("release" if self._plans else RELEASE_NAME)
        content = self._get(address, at_most=MAX_RELEASE_BYTES, what="release", until_s=until_s)
        return content or b""

    def choose(self, model_id: str) -> None:
        """From now on reads segments of this model (``latest`` may change between requests)."""
        if self._root is None:
            # The manifest came from elsewhere: the most likely address is all there is.
            self._root, self._plans = next(self._candidates(model_id))
        if self._plans:
            before = self._root.path.rpartition("/")[0]
            self._root = dataclasses.replace(self._root, path=f"{before}/{model_id}")

    def read(
        self, segments: Sequence[Segment], *, offset: int = 0, until_s: float = math.inf
    ) -> Generator[bytes, None, None]:
        """Yields the bytes of segments one after another, in pieces as they arrive.

        Interrupted, it goes on from the next byte; close the iterator to stop. What a server cannot
        send as a range it is asked for whole, and what it cannot send together, one by one.

        Args:
          segments: in the order wanted.
          offset: bytes of the first one that the caller has already.
          until_s: moment of the clock at which to end. A read that blocks when it comes ends at
            its time-out, which is no longer than there was time left when its request was sent.

        Raises:
          ConnectionLostError: too many attempts in a row without progress.
          RefusedError: the server has no such segment.
          SegmentError: it has one of another size.
          TransportError: it answers in a way that cannot be read.
        """
        todo = list(segments)
        failures, ranges, together = 0, True, self._plans
        while todo and self.clock.now() < until_s:
            if offset >= todo[0].size_bytes:
                offset -= todo.pop(0).size_bytes
                continue
            batch = todo[: _STREAM_SEGMENTS if together else 1]
            came = 0
            try:
                for chunk in self._source(todo, batch, offset, until_s, ranges=ranges):
                    came += len(chunk)
                    offset += len(chunk)
                    yield chunk
                    if self.clock.now() >= until_s:
                        return
            except answers.OddRangeError as error:
                if not (ranges and offset):
                    raise SegmentError(str(error)) from error
                ranges = False
            except RefusedError as error:
                if len(batch) == 1 or error.status not in _ALONE:
                    raise
                together = False
            except ConnectionLostError as error:
                if self.clock.now() >= until_s:
                    return
                if error.answered and len(batch) > 1 and not came:
                    # Perhaps one of them is missing there: the others need not wait for it.
                    together, failures = False, failures + 1
                    continue
                failures = 1 if came >= _PROGRESS_BYTES else failures + 1
                self._connection.wait_or_give_up(failures, error, until_s)
            else:
                failures = 0

    def close(self) -> None:
        """Closes the connection, unless the client came from outside."""
        self.go_on(None)
        if self._own_client:
            self._connection.client.close()

    def _candidates(self, model_id: str) -> Iterator[tuple[Address, bool]]:
        """Where a manifest may be: (address, whether an endpoint would answer there)."""
        path = self.address.path
        if self._root is not None and model_id == "latest":
            yield self._root, self._plans
        elif path.endswith("/manifest.json"):
            yield self.address.without("/manifest.json"), False
        elif re.search(r"/v1/models/[^/]+$", path):
            yield self.address, True
        elif is_digest(path.rpartition("/")[2]):
            yield self.address, False
        else:
            yield self.address.under(f"v1/models/{model_id}"), True
            if model_id != "latest":
                yield self.address.under(model_id), False

    @staticmethod
    def _line_query(plans: bool, line: str | None, model_id: str) -> str:
        return f"line={line}" if plans and line and model_id == "latest" else ""

    def _open_once(
        self, address: Address, query: str, body: bytes | None, until_s: float
    ) -> OpenAnswer:
        name = str(address)

        def check(came: int) -> None:
            self.other_bytes += came
            if self.clock.now() >= until_s:
                raise ConnectionLostError(f"{name} had sent no whole manifest when time was over")

        def count(came: int) -> None:
            self.body_bytes += came

        asked = self._connection.answer(address.url(query), name, _PLAIN, until_s, body=body)
        return OpenAnswer(asked, name, check=check, on_segment_bytes=count)

    def _source(
        self,
        wanted: Sequence[Segment],
        batch: Sequence[Segment],
        offset: int,
        until_s: float,
        *,
        ranges: bool,
    ) -> Iterator[bytes]:
        """Bytes from `offset` on: those that are on the way already, or of a new request."""
        if self._opened and self.is_under_way(wanted[0], offset):
            return self._opened.read(wanted)
        # The two would share the link.
        self.go_on(None)
        return self._read_once(batch, offset, until_s, ranges=ranges)

    def _get(
        self,
        address: Address,
        query: str = "",
        *,
        known: str | None = None,
        at_most: int = MAX_MANIFEST_BYTES,
        what: str = "manifest",
        until_s: float,
    ) -> bytes | None:
        headers = {"Accept-Encoding": "gzip"}
        url, name = address.url(query), str(address)
        if known is not None:
            headers["If-None-Match"] = f'"{known}", "{known}-gzip"'
        return self._connection.patiently(
            lambda: self._get_once(url, name, headers, at_most, what, until_s), until_s
        )

    def _get_once(
        self,
        url: str,
        name: str,
        headers: dict[str, str],
        at_most: int,
        what: str,
        until_s: float,
    ) -> bytes | None:
        content = bytearray()
        with self._connection.answer(url, name, headers, until_s) as response:
            if response.status_code == 304:
                return None
            for piece, came in answers.whole(response, name, at_most, what):
                self.other_bytes += came
                content += piece
                if self.clock.now() >= until_s:
                    break
            else:
                return bytes(content)
        raise ConnectionLostError(f"{name} had sent {len(content)} bytes when time was over")

    def _read_once(
        self, segments: Sequence[Segment], offset: int, until_s: float, *, ranges: bool
    ) -> Iterator[bytes]:
        """Yields bytes of one response, from `offset` until its end."""
        assert self._root is not None
        total = sum(segment.size_bytes for segment in segments)
        query = ""
        if not self._plans or len(segments) == 1:
            sha256 = segments[0].sha256
            name = sha256 if self._plans else segment_name(sha256)
            address = self._root.under(f"segments/{name}")
        else:
            address = self._root.under("stream")
            query = f"segments={','.join(segment.sha256 for segment in segments)}"
        asked = offset if ranges else 0
        headers = _PLAIN | ({"Range": f"bytes={asked}-"} if asked else {})
        name = str(address)
        with self._connection.answer(address.url(query), name, headers, until_s) as response:
            skip = answers.bytes_to_skip(response, name, asked, total) + offset - asked
            left = total - offset
            for chunk, came in answers.content(response, name):
                self.body_bytes += came
                # A server that knows no ranges starts again at the first byte.
                dropped = min(skip, len(chunk))
                skip -= dropped
                piece = chunk[dropped:]
                if len(piece) > left:
                    raise SegmentError(
                        f"{name} sends more than {total} bytes, the size in the manifest"
                    )
                left -= len(piece)
                if piece:
                    yield piece
            if left:
                raise ConnectionLostError(f"{name} ended {left} bytes early")
