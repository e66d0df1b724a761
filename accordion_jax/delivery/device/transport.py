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
import random
import re
import urllib.parse
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any

import httpx

from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, Segment
from accordion_jax.delivery.errors import (
    ConnectionLostError,
    RefusedError,
    SegmentError,
    TransportError,
)
from accordion_jax.delivery.links.clock import Clock, RealClock

_BUSY = {408, 425, 429, 500, 502, 503, 504}
_STREAM_SEGMENTS = 64  # 64 digests keep the address under 4,200 characters, which servers accept


@dataclasses.dataclass(frozen=True)
class Retries:
    """How long to keep trying.

    Attributes:
      attempts: in a row without one new byte, before giving up; the first is one of them.
      first_wait_s: before the second attempt; doubles with each.
      longest_wait_s: where the doubling stops.
    """

    attempts: int = 5
    first_wait_s: float = 0.2
    longest_wait_s: float = 5.0

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after `failures` attempts in a row, drawn from the upper half."""
        longest = min(self.first_wait_s * 2 ** (failures - 1), self.longest_wait_s)
        # Many devices that lost the same cell must not come back at the same moment.
        return longest * random.uniform(0.5, 1.0)


class HttpTransport:
    """Reads a manifest, plans and segments over HTTP.

    Args:
      url: of an endpoint (``http://host:8000``), of one of its models
        (``http://host:8000/v1/models/ID``), or of a bundle's folder or manifest on a static server
        (``https://cdn/bundles/ID/manifest.json``).
      client: an `httpx.Client`, whose transport may be a throttled or an in-process one; the caller
        closes it. None makes one.
      timeout_s: without a byte, before a connection counts as lost.
      retries: how long to keep trying.
      clock: waits between attempts.

    Attributes:
      body_bytes: of segment bodies received so far, thrown away ones included.
      other_bytes: of the bodies of manifests and plans received so far.

    Raises:
      ValueError: the URL is not one of http or https.
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
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"url={url!r} must start with http:// or https:// and name a host")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.retries = retries or Retries()
        self.clock = clock or RealClock()
        self.body_bytes = 0
        self.other_bytes = 0
        self._own_client = client is None
        self._client = client or httpx.Client()
        # Where the manifest was found; segments are beside it.
        self._root: str | None = None
        self._plans = False

    @property
    def model_id(self) -> str | None:
        """The one model that the URL names; None if it leaves that open."""
        found = re.search(r"/([0-9a-f]{64})(/manifest\.json)?$", self.url)
        return found[1] if found else None

    @property
    def streams(self) -> bool:
        """Whether the other side is an endpoint, which plans and streams."""
        return self._plans

    def manifest(self, model_id: str = "latest", *, known: str | None = None) -> bytes | None:
        """Returns the manifest as sent; None if it is that of the model `known`.

        Args:
          model_id: of the wanted model, or ``latest``. A static server knows no latest: there the
            URL names the bundle.
          known: model_id of a manifest that the caller has. An endpoint then need not send it
            again; a static server does.

        Raises:
          ConnectionLostError: the server cannot be reached, after all retries.
          RefusedError: it has no such model.
          TransportError: the answer is larger than any manifest.
        """
        refusals = []
        for root, plans in self._candidates(model_id):
            address = root if plans else f"{root}/manifest.json"
            try:
                content = self._get(address, known=known if plans else None)
            except RefusedError as error:
                refusals.append(str(error))
                continue
            self._root, self._plans = root, plans
            return content
        raise RefusedError(
            f"no manifest of model {model_id!r} at {self.url}: {'; '.join(refusals)}. The URL must "
            "be that of an endpoint, or of a bundle's folder on a web server"
        )

    def choose(self, model_id: str) -> None:
        """From now on reads segments of this model (``latest`` may change between requests)."""
        if self._root is None:
            # The manifest came from elsewhere: the most likely address is all there is.
            self._root, self._plans = next(self._candidates(model_id))
        if self._plans:
            self._root = f"{self._root.rpartition('/')[0]}/{model_id}"

    def plan(self, requirements: dict[str, Any], held: Collection[str]) -> dict[str, Any]:
        """Returns the endpoint's plan document for these requirements and held segments.

        Raises:
          TransportError: a static server does not plan; or as `manifest`.
        """
        if not self._plans:
            raise TransportError(f"{self.url} does not plan; plan on the device instead")
        body = json.dumps({"requirements": requirements, "held": sorted(held)}).encode()
        content = self._get(f"{self._root}/plan", body=body)
        try:
            return json.loads(content or b"")
        except ValueError as error:
            raise TransportError(f"{self._root}/plan answered no JSON: {error}") from error

    def read(
        self, segments: Sequence[Segment], *, offset: int = 0, until_s: float = math.inf
    ) -> Generator[bytes, None, None]:
        """Yields the bytes of segments one after another, in pieces as they arrive.

        Interrupted, it goes on from the next byte; close the iterator to stop.

        Args:
          segments: in the order wanted.
          offset: bytes of the first one that the caller has already.
          until_s: moment of the clock at which to end. A read that blocks when it comes ends at
            its time-out, which is no longer than there was time left when its request was sent.

        Raises:
          ConnectionLostError: too many attempts in a row without a new byte.
          RefusedError: the server has no such segment.
          SegmentError: it has one of another size.
        """
        todo = list(segments)
        failures = 0
        while todo and self.clock.now() < until_s:
            if offset >= todo[0].size_bytes:
                offset -= todo.pop(0).size_bytes
                continue
            batch = todo[:_STREAM_SEGMENTS] if self._plans else todo[:1]
            try:
                for chunk in self._read_once(batch, offset, until_s):
                    failures = 0
                    offset += len(chunk)
                    yield chunk
                    if self.clock.now() >= until_s:
                        return
            except ConnectionLostError as error:
                if self.clock.now() >= until_s:
                    return
                failures += 1
                self._wait_or_give_up(failures, error, until_s)

    def close(self) -> None:
        """Closes the connection, unless the client came from outside."""
        if self._own_client:
            self._client.close()

    def _candidates(self, model_id: str) -> Iterator[tuple[str, bool]]:
        """Where a manifest may be: (address, whether an endpoint would answer there)."""
        if self._root is not None and model_id == "latest":
            yield self._root, self._plans
            return
        if self.url.endswith("/manifest.json"):
            yield self.url.removesuffix("/manifest.json"), False
            return
        if re.search(r"/v1/models/[^/]+$", self.url):
            yield self.url, True
            return
        if re.search(r"/[0-9a-f]{64}$", self.url):
            yield self.url, False
            return
        yield f"{self.url}/v1/models/{model_id}", True
        if model_id != "latest":
            yield f"{self.url}/{model_id}", False

    def _get(
        self, address: str, *, body: bytes | None = None, known: str | None = None
    ) -> bytes | None:
        headers = {} if known is None else {"If-None-Match": f'"{known}", "{known}-gzip"'}
        if body is not None:
            headers["Content-Type"] = "application/json"
        failures = 0
        while True:
            try:
                return self._get_once(address, body, headers)
            except ConnectionLostError as error:
                failures += 1
                self._wait_or_give_up(failures, error)

    def _get_once(self, address: str, body: bytes | None, headers: dict[str, str]) -> bytes | None:
        content = bytearray()
        method = "GET" if body is None else "POST"
        with self._response(method, address, headers, body, self.timeout_s) as response:
            if response.status_code == 304:
                return None
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_MANIFEST_BYTES:
                    raise TransportError(
                        f"{address} answers more than {MAX_MANIFEST_BYTES} bytes; that is no "
                        "manifest"
                    )
            self.other_bytes += response.num_bytes_downloaded
        return bytes(content)

    def _read_once(
        self, segments: Sequence[Segment], offset: int, until_s: float
    ) -> Iterator[bytes]:
        """Yields bytes of one response, from `offset` until its end."""
        total = sum(segment.size_bytes for segment in segments)
        if not self._plans or len(segments) == 1:
            suffix = "" if self._plans else ".safetensors"
            address = f"{self._root}/segments/{segments[0].sha256}{suffix}"
        else:
            digests = ",".join(segment.sha256 for segment in segments)
            address = f"{self._root}/stream?segments={digests}"
        # Compression on the way would make the offsets those of other bytes.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        timeout_s = min(self.timeout_s, until_s - self.clock.now())
        with self._response("GET", address, headers, None, timeout_s) as response:
            skip = self._checked_start(response, offset, total)
            left = total - offset
            for chunk in response.iter_raw():
                self.body_bytes += len(chunk)
                # A server that knows no ranges starts again at the first byte.
                dropped = min(skip, len(chunk))
                skip -= dropped
                piece = chunk[dropped:]
                if len(piece) > left:
                    raise SegmentError(
                        f"{address} sends more than {total} bytes, the size in the manifest"
                    )
                left -= len(piece)
                if piece:
                    yield piece
            if left:
                raise ConnectionLostError(f"{address} ended {left} bytes early")

    @staticmethod
    def _checked_start(response: httpx.Response, offset: int, total: int) -> int:
        """Returns how many bytes of the body to skip."""
        length = response.headers.get("Content-Length")
        if response.status_code == 206:
            found = re.fullmatch(
                r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "")
            )
            if not found or int(found[1]) != offset or found[3] not in ("*", str(total)):
                raise SegmentError(
                    f"{response.url} answers Content-Range "
                    f"{response.headers.get('Content-Range')!r}; wanted bytes {offset}- of {total}"
                )
            return 0
        if length is not None and int(length) != total:
            raise SegmentError(
                f"{response.url} has {length} bytes; the manifest says {total}. It is another "
                "segment, or a cut one"
            )
        return offset

    @contextlib.contextmanager
    def _response(
        self,
        method: str,
        address: str,
        headers: dict[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> Iterator[httpx.Response]:
        try:
            with self._client.stream(
                method,
                address,
                headers=headers,
                content=body,
                timeout=max(timeout_s, 0.001),
                follow_redirects=True,
            ) as response:
                if response.status_code in _BUSY:
                    raise ConnectionLostError(f"{address} answered {response.status_code}")
                if response.status_code not in (200, 206, 304):
                    detail = response.read()[:300].decode(errors="replace").strip()
                    raise RefusedError(f"{address} answered {response.status_code}: {detail}")
                yield response
        except httpx.UnsupportedProtocol as error:
            raise RefusedError(f"{address}: {error}") from error
        except httpx.HTTPError as error:
            raise ConnectionLostError(f"{address}: {type(error).__name__}: {error}") from error

    def _wait_or_give_up(
        self, failures: int, error: ConnectionLostError, until_s: float = math.inf
    ) -> None:
        if failures >= self.retries.attempts:
            raise ConnectionLostError(
                f"gave up after {failures} attempts without a new byte; the last: {error}"
            ) from error
        self.clock.sleep(min(self.retries.wait_s(failures), until_s - self.clock.now()))
