"""Ranges and conditions of HTTP (RFC 9110, sections 13 and 14) for content that never changes."""

import re

_SINGLE_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)


class UnsatisfiableRangeError(Exception):
    """The range asks for bytes that there are none of: status 416."""


def parse_range(header: str | None, length: int) -> tuple[int, int] | None:
    """Returns the bytes ``[start, stop)`` that a Range header asks for; None for the whole.

    RFC 9110 lets a server ignore a header that it does not take: several ranges, another unit than
    bytes, and what does not parse are answered with the whole.

    Args:
      header: value of ``Range``; None if there is none.
      length: bytes of the whole.

    Raises:
      UnsatisfiableRangeError: the range is valid, and begins at or after the end.
    """
    match = _SINGLE_RANGE.fullmatch(header) if header else None
    if match is None:
        return None
    first, last = (_position(digits) for digits in match.groups())
    if first is None and last is None:
        return None
    if first is None:
        if last == 0 or length == 0:
            raise UnsatisfiableRangeError
        return max(0, length - (last or 0)), length
    if last is not None and last < first:
        return None
    if first >= length:
        raise UnsatisfiableRangeError
    return first, length if last is None else min(last + 1, length)


def _position(digits: str) -> int | None:
    # Python refuses to parse thousands of digits; no file has a position of more than 18.
    digits = digits and (digits.lstrip("0") or "0")
    if not digits:
        return None
    return int(digits) if len(digits) <= 18 else 10**18


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether a Range header counts: there is no If-Range, or it names this very content.

    Only a strong entity tag can match: our content has no date of modification.
    """
    return if_range is None or if_range.strip() == etag


def is_unmodified(if_none_match: str | None, *etags: str) -> bool:
    """Whether If-None-Match names one of the entity tags, so that 304 is the answer."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    # Our tags hold no comma, so that splitting is exact for every tag that can match.
    given = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return not given.isdisjoint(etags)
