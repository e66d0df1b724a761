"""Text from outside, before it reaches a person."""

import re
from typing import Any


def printable(text: str) -> str:
    """Returns text whose control characters are written as escapes: none of them acts.

    A server's message could otherwise move the cursor, colour the screen, or name a window.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def without_secrets(text: str) -> str:
    """Returns a URL, or a message with URLs in it, without users, passwords and queries.

    ``https://me:word@host/bundles?sig=x`` becomes ``https://host/bundles``. Other text stays.
    """
    return re.sub(r"(\w://)(?:[^/?#\s]*@)?([^?#\s'\"]*)(?:[?#][^\s'\"]*)?", r"\1\2", text)


def short(value: Any, most: int = 120) -> str:
    """Returns a value as it stands in an error: in ASCII, cut to a length that a person reads."""
    text = ascii(value)
    return text if len(text) <= most else text[: most - 3] + "..."
