"""Text from outside, before it reaches a terminal."""


def printable(text: str) -> str:
    """Returns text whose control characters are written as escapes: none of them acts.

    A server's message could otherwise move the cursor, colour the screen, or name a window.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
