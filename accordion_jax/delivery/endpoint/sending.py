"""How an endpoint sends segments: ranges of them, or after the head of a front."""

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from accordion_jax.delivery.bundle.front import Head
from accordion_jax.delivery.bundle.manifest import digest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.endpoint.admission import SMALL_BYTES, chunk_bytes
from accordion_jax.delivery.endpoint.http_range import (
    UnsatisfiableRangeError,
    is_unmodified,
    parse_range,
    range_applies,
)
from accordion_jax.delivery.endpoint.metrics import Metrics
from accordion_jax.delivery.endpoint.store import BundleStore, StoredModel
from accordion_jax.delivery.errors import SegmentError
from accordion_jax.system.text import short

_log = logging.getLogger(__name__)

IMMUTABLE = "public, max-age=31536000, immutable"
_BYTES = "application/octet-stream"


class Sender:
    """Sends segments of a store.

    Args:
      store: of the bundles.
      counters: are told what is being sent.
    """

    def __init__(self, store: BundleStore, counters: Metrics):
        self._store = store
        self._sending = counters.sending

    async def segments(
        self, request: Request, model: StoredModel, digests: Sequence[str]
    ) -> Response:
        """Answers a request for segments that are laid one after another, or for a range of them.

        Raises:
          HTTPException: 404, the model has no such segment; 416, the range is beyond the end.
          SegmentError, StorageError: one cannot be sent.
        """
        segments = model.manifest.by_sha256
        for sha256 in digests:
            if sha256 not in segments:
                raise HTTPException(
                    404,
                    f"no segment {short(sha256)} in model {model.manifest.model_id}; its manifest "
                    "lists those there are",
                )
        # The manifest's own strings: as long as a device takes to fetch hundreds of segments, its
        # request would hold them.
        digests = [segments[sha256].sha256 for sha256 in digests]
        length = sum(segments[sha256].size_bytes for sha256 in digests)
        etag = f'"{digests[0] if len(digests) == 1 else digest(",".join(digests).encode())}"'
        headers = {"ETag": etag, "Cache-Control": IMMUTABLE, "Accept-Ranges": "bytes"}
        if is_unmodified(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        start, stop, status = 0, length, 200
        # Range is defined for GET alone.
        if request.method == "GET" and range_applies(request.headers.get("if-range"), etag):
            asked = request.headers.get("range")
            try:
                part = parse_range(asked, length)
            except UnsatisfiableRangeError:
                raise HTTPException(
                    416,
                    f"Range: {short(asked)} begins after the {length} bytes that there are",
                    headers={"Content-Range": f"bytes */{length}"},
                ) from None
            if part is not None:
                (start, stop), status = part, 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{length}"
        headers["Content-Length"] = str(stop - start)
        is_small = request.method == "GET" and stop - start <= SMALL_BYTES

        def prepare() -> bytes:
            # Before the first header goes out: what is announced must be there. What fits in one
            # chunk is read in the same step, as each change of threads costs more than it.
            self._store.check_segments(model, digests)
            return b"".join(self._store.read(model, digests, start, stop)) if is_small else b""

        body = await run_in_threadpool(prepare)
        if is_small or request.method == "HEAD":
            return Response(body, status, headers, media_type=_BYTES)
        return self._response(self._chunks(model, digests, start, stop), status, headers)

    async def front(
        self,
        model: StoredModel,
        segments: Sequence[Segment],
        *,
        is_known: bool,
        release: bytes | None,
        part: tuple[str, int] | None,
    ) -> Response:
        """Answers with a front.

        Args:
          model: of the store.
          segments: of it, in the order of sending; those from the first on whose file is not whole
            are left out, so that a device gets what there is, and is told of the rest when it asks.
          is_known: whether the device has the manifest.
          release: to send along.
          part: digest of a segment, and the bytes of it that the device has; None: of none.

        Raises:
          StorageError: the storage does not answer.
        """

        def prepare() -> tuple[bytes, list[str], int, int, bytes]:
            whole: list[Segment] = []
            for segment in segments:
                try:
                    self._store.check_segments(model, [segment.sha256])
                except SegmentError as error:
                    _log.warning("not sent in a front: %s", error)
                    break
                whole.append(segment)
            start = 0
            if part and whole and part[0] == whole[0].sha256 and part[1] < whole[0].size_bytes:
                start = part[1]
            stop = sum(segment.size_bytes for segment in whole)
            document = None if is_known else model.body
            head = Head.of(
                model.manifest, whole, document=document, release=release, offset=start
            ).to_bytes(model.packed_body)
            digests = [segment.sha256 for segment in whole]
            is_small = len(head) + stop - start <= SMALL_BYTES
            content = self._store.read(model, digests, start, stop) if is_small else ()
            return head, digests, start, stop, b"".join(content)

        head, digests, start, stop, content = await run_in_threadpool(prepare)
        size = len(head) + stop - start
        headers = {"Cache-Control": "no-store", "Content-Length": str(size)}
        if len(head) + len(content) == size:
            return Response(head + content, 200, headers, media_type=_BYTES)

        def chunks() -> Generator[bytes, None, None]:
            segments = self._chunks(model, digests, start, stop)
            with contextlib.closing(segments) as rest:  # type: ignore[type-var]
                # The first segments go out with it: what is sent at once arrives at once.
                yield head + next(rest, b"")
                yield from rest

        return self._response(chunks(), 200, headers)

    def _chunks(
        self, model: StoredModel, digests: Sequence[str], start: int, stop: int
    ) -> Iterator[bytes]:
        return self._store.read(
            model, digests, start, stop, chunk_bytes=lambda: chunk_bytes(len(self._sending))
        )

    def _response(
        self, chunks: Iterator[bytes], status: int, headers: Mapping[str, str]
    ) -> Response:
        return _SegmentResponse(chunks, status, headers, self._sending)


class _SegmentResponse(StreamingResponse):
    """Sends chunks as the client takes them, and lets go of the file whatever happens.

    If a chunk cannot be read the connection is closed short of Content-Length, so that no client
    takes what it has for the whole.
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        status: int,
        headers: Mapping[str, str],
        sending: set[object],
    ):
        super().__init__(chunks, status, headers, media_type=_BYTES)
        self._chunks = chunks
        self._sending = sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._sending.add(self)
        try:
            with contextlib.closing(self._chunks):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)
        except ClientDisconnect:
            _log.debug("a device hung up")  # It asks again, or it does not.
        finally:
            self._sending.discard(self)
