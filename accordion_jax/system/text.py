"""Text from outside, before it reaches a person."""

from typing import Any


def printable(text: str) -> str:
    """Returns text whose control characters are written as escapes: none of them acts.

    A server's message could otherwise move the cursor, colour the screen, or name a window.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def short(value: Any, most: int = 120) -> str:
    """Returns a value as it stands in an error: in ASCII, cut to a length that a person reads."""
    text = ascii(value)
    return text if len(text) <= most else text[: most - 3] + "..."
