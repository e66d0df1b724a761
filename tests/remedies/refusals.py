"""What somebody was told."""

import contextlib

import pytest


@contextlib.contextmanager
def refused(error=ValueError):
    """Yields a list that then has the message."""
    said = []
    with pytest.raises(error) as caught:
        yield said
    said.append(str(caught.value))
