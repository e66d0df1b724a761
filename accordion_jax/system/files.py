"""Files that are there whole or not at all: the one way in which this package writes them."""

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, which becomes `path` if all goes well.

    For libraries that write a file themselves. Another process sees the old file or the new one; a
    crash leaves at most a hidden file that ends in ``.tmp`` and the format's own ending.

    Args:
      path: of the file to replace; its folder is made where it does not exist.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays, since some libraries choose a format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file, whole or not at all.

    Args:
      path: of the file.
      content: text is written as UTF-8.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_json(path: str | os.PathLike, document: Mapping[str, Any]) -> None:
    """Writes a JSON document, whole or not at all."""
    write_whole(path, json.dumps(document, indent=1) + "\n")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the JSON object in a file; empty where there is no file.

    Raises:
      ValueError: it is there and holds no JSON object; names it.
    """
    path = pathlib.Path(path)
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is damaged ({error}); mend it, or move it away") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object; mend it, or move it away")
    return document
