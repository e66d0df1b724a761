"""HTTP to whatever carries a bundle: our endpoint, or any static web server, object store or CDN.

The two differ in their addresses only. The endpoint also plans, and sends many segments in one
*stream*; from a static server the device asks for one segment after another on one connection.
Either way the caller reads one sequence of bytes, and an interruption anywhere in it is mended here
with a Range request from the first byte that is missing.

No JAX, and no thread: a device of any kind may use it.
"""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any

import httpx

from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, is_digest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.bundle.reading import segment_name
from accordion_jax.delivery.device import answers
from accordion_jax.delivery.device.address import Address
from accordion_jax.delivery.device.connection import environment_client
from accordion_jax.delivery.device.retries import Retries
from accordion_jax.delivery.errors import (
    ConnectionLostError,
    RefusedError,
    SegmentError,
    TransportError,
)
from accordion_jax.delivery.links.clock import Clock, RealClock
from accordion_jax.delivery.trust.documents import MAX_RELEASE_BYTES, RELEASE_NAME

_MOST_REDIRECTS = 5
# What may fail for many segments in one request, and not for each of them.
_ALONE = {400, 404, 413, 414, 431}
_STREAM_SEGMENTS = 64  # 64 digests keep the address under 4,200 characters, which servers accept
_PROGRESS_BYTES = 512  # fewer in an attempt are no progress: a byte a connection never ends


class HttpTransport:
    """Reads a manifest, plans and segments over HTTP.

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
      other_bytes: of the bodies of manifests, releases and plans received so far.

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
        self.timeout_s = timeout_s
        self.retries = retries or Retries()
        self.clock = clock or RealClock()
        self.body_bytes = 0
        self.other_bytes = 0
        self._own_client = client is None
        self._client = client or environment_client()
        # Where the manifest was found; segments are beside it.
        self._root: Address | None = None
        self._plans = False

    @property
    def model_id(self) -> str | None:
        """The one model that the URL names; None if it leaves that open."""
        last = self.address.without("/manifest.json").path.rpartition("/")[2]
        return last if is_digest(last) else None

    @property
    def streams(self) -> bool:
        """Whether the other side is an endpoint, which plans and streams."""
        return self._plans

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
            query = f"line={line}" if plans and line and model_id == "latest" else ""
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

    def plan(
        self,
        requirements: dict[str, Any],
        held: Collection[str],
        *,
        until_s: float = math.inf,
    ) -> dict[str, Any]:
        """Returns the endpoint's plan document for these requirements and held segments.

        Raises:
          TransportError: a static server does not plan; or as `manifest`.
        """
        if not self._plans or self._root is None:
            raise TransportError(f"{self.address} does not plan; plan on the device instead")
        body = json.dumps({"requirements": requirements, "held": sorted(held)}).encode()
        address = self._root.under("plan")
        content = self._get(address, body=body, until_s=until_s)
        try:
            return json.loads(content or b"")
        except (ValueError, RecursionError) as error:
            raise TransportError(f"{address} answered no JSON: {error}") from error

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
                for chunk in self._read_once(batch, offset, until_s, ranges=ranges):
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
                self._wait_or_give_up(failures, error, until_s)
            else:
                failures = 0

    def close(self) -> None:
        """Closes the connection, unless the client came from outside."""
        if self._own_client:
            self._client.close()

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

    def _get(
        self,
        address: Address,
        query: str = "",
        *,
        body: bytes | None = None,
        known: str | None = None,
        at_most: int = MAX_MANIFEST_BYTES,
        what: str = "manifest",
        until_s: float,
    ) -> bytes | None:
        headers = {"Accept-Encoding": "gzip"}
        url, name = address.url(query), str(address)
        if known is not None:
            headers["If-None-Match"] = f'"{known}", "{known}-gzip"'
        if body is not None:
            headers["Content-Type"] = "application/json"
        failures = 0
        while True:
            try:
                return self._get_once(url, name, headers, body, at_most, what, until_s)
            except ConnectionLostError as error:
                failures += 1
                self._wait_or_give_up(failures, error, until_s)

    def _get_once(
        self,
        url: str,
        name: str,
        headers: dict[str, str],
        body: bytes | None,
        at_most: int,
        what: str,
        until_s: float,
    ) -> bytes | None:
        content = bytearray()
        with self._response(url, name, headers, body, until_s) as response:
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
        # Compression on the way would make the offsets those of other bytes.
        headers = {"Accept-Encoding": "identity"}
        asked = offset if ranges else 0
        if asked:
            headers["Range"] = f"bytes={asked}-"
        name = str(address)
        with self._response(address.url(query), name, headers, None, until_s) as response:
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

    @contextlib.contextmanager
    def _response(
        self,
        url: str,
        name: str,
        headers: dict[str, str],
        body: bytes | None,
        until_s: float,
    ) -> Iterator[httpx.Response]:
        """Yields an answer of success, its body unread; goes where redirects lead."""
        method = "GET" if body is None else "POST"
        timeout_s = max(min(self.timeout_s, until_s - self.clock.now()), 0.001)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                # Not by the client: it would read what comes with a redirect, however long.
                with self._client.stream(
                    method,
                    url,
                    headers=headers,
                    content=body,
                    timeout=timeout_s,
                    follow_redirects=False,
                ) as response:
                    if response.status_code not in answers.REDIRECTS:
                        answers.check_status(response, name, ranged="Range" in headers)
                        yield response
                        return
                    url = answers.redirected(response, name)
            raise RefusedError(f"{name} redirects more than {_MOST_REDIRECTS} times")
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise RefusedError(f"{name}: {error}") from error
        except httpx.HTTPError as error:
            raise ConnectionLostError(f"{name}: {type(error).__name__}: {error}") from error

    def _wait_or_give_up(self, failures: int, error: ConnectionLostError, until_s: float) -> None:
        if failures >= self.retries.attempts or self.clock.now() >= until_s:
            raise ConnectionLostError(
                f"gave up after {failures} attempts without a new byte; the last: {error}"
            ) from error
        wait_s = max(self.retries.wait_s(failures), error.retry_after_s)
        self.clock.sleep(min(wait_s, until_s - self.clock.now()))
