"""Answers of servers that may be anybody's: read no further, and believed no more, than is safe."""

import email.utils
import re
import time
import zlib
from collections.abc import Iterator

import httpx

from accordion_jax.delivery.errors import (
    ConnectionLostError,
    RefusedError,
    SegmentError,
    TransportError,
)
from accordion_jax.system.text import printable

REDIRECTS = {301, 302, 303, 307, 308}

_BUSY = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_HINT_S = 60.0
_PIECE_BYTES = 1 << 16
_SHOWN_BYTES = 300


class OddRangeError(Exception):
    """A server answers a Range header in a way that cannot be used: ask for the whole instead."""


def coding(response: httpx.Response) -> str:
    """Returns the content coding of a body in lower case; empty where there is none."""
    named = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if named == "identity" else named


def content(response: httpx.Response, name: str) -> Iterator[tuple[bytes, int]]:
    """Yields pieces of what a body says, its content coding taken off.

    No library unpacks it: a few kilobytes of gzip may be gigabytes, and a coding may come twice.

    Args:
      response: whose body was not read.
      name: of the address, for errors.

    Yields:
      (piece of at most 64 KiB or of what the socket gave, bytes that came over the network for it).

    Raises:
      TransportError: the coding is none that was asked for; names it.
      ConnectionLostError: what was packed is damaged or ends early.
    """
    named = coding(response)
    if named and named not in ("gzip", "x-gzip"):
        raise TransportError(
            f"{name} is sent with Content-Encoding {printable(named)[:40]!r}; only gzip or none "
            "can be read. Something between, a proxy say, may have added it"
        )
    if not named:
        for chunk in response.iter_raw():
            yield chunk, len(chunk)
        return
    inflater = zlib.decompressobj(31)
    for chunk in response.iter_raw():
        came = len(chunk)
        while chunk and not inflater.eof:
            try:
                piece = inflater.decompress(chunk, _PIECE_BYTES)
            except zlib.error as error:
                raise ConnectionLostError(f"{name} sent damaged gzip: {error}") from error
            chunk = inflater.unconsumed_tail
            yield piece, came
            came = 0
    if not inflater.eof:
        raise ConnectionLostError(f"{name} ended in the middle of its gzip")


def whole(
    response: httpx.Response, name: str, at_most: int, what: str
) -> Iterator[tuple[bytes, int]]:
    """As `content`, and bounded.

    Args:
      response: as `content`.
      name: as `content`.
      at_most: bytes.
      what: is asked for, for errors.

    Raises:
      TransportError: more than `at_most` bytes came, packed or unpacked; or as `content`.
    """
    size = packed = 0
    for piece, came in content(response, name):
        size, packed = size + len(piece), packed + came
        if max(size, packed) > at_most:
            raise TransportError(f"{name} answers more than {at_most} bytes; that is no {what}")
        yield piece, came


def detail(response: httpx.Response) -> str:
    """Returns the first words of a body that says what went wrong, for a person."""
    if coding(response):
        return ""
    start = b""
    for chunk in response.iter_raw():
        start += chunk
        if len(start) >= _SHOWN_BYTES:
            break
    return printable(start[:_SHOWN_BYTES].decode(errors="replace").strip())


def bytes_to_skip(response: httpx.Response, name: str, offset: int, total: int) -> int:
    """Returns how many bytes of a body of segments come before the first that is wanted.

    Args:
      response: 200 or 206.
      name: of the address, for errors.
      offset: that was asked for; 0 without a Range header.
      total: bytes of the segments.

    Raises:
      OddRangeError: the answer is not the range that was asked for, nor the whole.
      SegmentError: it is of something else than these segments.
    """
    length = response.headers.get("Content-Length", "")
    announced = int(length) if re.fullmatch(r"\d{1,18}", length) else None
    if response.status_code == 206:
        given = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", given)
        # A range of what is packed is no range of what is in it.
        fits = found and not coding(response) and announced in (None, total - offset)
        if not (fits and found and int(found[1]) == offset and found[3] in ("*", str(total))):
            raise OddRangeError(
                f"{name} answers Content-Range {printable(given)[:60]!r}; wanted bytes {offset}- "
                f"of {total}"
            )
        return 0
    if announced in (None, total) or coding(response):
        return offset
    message = (
        f"{name} has {announced} bytes; the manifest says {total}. It is another segment, or a cut "
        "one"
    )
    raise OddRangeError(message) if offset else SegmentError(message)


def check_status(response: httpx.Response, name: str, *, ranged: bool) -> None:
    """Does nothing if an answer is one of success.

    Raises:
      OddRangeError: the server refuses a range that there is.
      ConnectionLostError: it is busy, or fails: asking again may help.
      RefusedError: it says no, with its first words.
    """
    status = response.status_code
    if status in (200, 206, 304):
        return
    if status == 416 and ranged:
        raise OddRangeError(f"{name} answered 416 to a range that is there")
    if status in _BUSY:
        raise ConnectionLostError(
            f"{name} answered {status}",
            retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
            answered=status >= 500,
        )
    raise RefusedError(f"{name} answered {status}: {detail(response)}", status=status)


def redirected(response: httpx.Response, name: str) -> str:
    """Returns the URL that a redirect leads to.

    Raises:
      RefusedError: it is none of http or https, or would turn a POST into a GET.
    """
    location = response.headers.get("Location", "")
    try:
        target = httpx.URL(str(response.request.url.join(location))) if location else None
    except (httpx.InvalidURL, ValueError):
        target = None
    if target is None or target.scheme not in ("http", "https") or not target.host:
        raise RefusedError(f"{name} answered {response.status_code} to no address of http or https")
    if response.request.method == "POST" and response.status_code not in (307, 308):
        raise RefusedError(f"{name} answered a POST with {response.status_code}")
    return str(target)


def _retry_after_s(header: str) -> float:
    """Seconds that a Retry-After asks for, as a number or a date; 0 if it says nothing usable."""
    if re.fullmatch(r"\d{1,9}", header.strip()):
        return min(float(header), _LONGEST_HINT_S)
    try:
        moment = email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(moment - time.time(), 0.0), _LONGEST_HINT_S)
