"""Files that are there whole or not at all: the one way in which this package writes them."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from accordion_jax.system.room import FULL, room_for


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, which becomes `path` if all goes well.

    For libraries that write a file themselves. Another process sees the old file or the new one; a
    crash leaves at most a hidden file that ends in ``.tmp`` and the format's own ending.

    Args:
      path: of the file to replace; its folder is made where it does not exist.

    Raises:
      NoRoomError: the disk is full; what was there before still is.
    """
    path = pathlib.Path(path)
    # The ending stays, since some libraries choose a format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields an empty temporary folder beside `path`, which becomes `path` if all goes well.

    All of it is flushed to the disk first, so that not even a power cut leaves half a folder of
    this name; it leaves at most a hidden one that ends in ``.tmp``. A folder that another process
    puts there meanwhile stays, for callers whose folders are named for their content.

    Args:
      path: of the folder. The one around it is made where it does not exist.

    Raises:
      NoRoomError: the disk is full; nothing of the folder is left.
    """
    path = pathlib.Path(path)
    # Plain mkdir, not mkdtemp: a web server with another user must be able to read the result.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with room_for(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    _flush(pathlib.Path(folder, name))
                _flush(pathlib.Path(folder))
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: pathlib.Path) -> None:
    """Makes a file, or the names in a folder, survive a crash, where the file system can do that.

    Raises:
      OSError: the disk could not take it, or failed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in {errno.EIO, *FULL}:
            raise
    finally:
        os.close(descriptor)


def write_whole(
    path: str | os.PathLike, content: str | bytes, *, survives_power_cut: bool = False
) -> None:
    """Writes a file, whole or not at all.

    Args:
      path: of the file.
      content: text is written as UTF-8.
      survives_power_cut: flushes it to the disk, for what must not be lost nor found half.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        if survives_power_cut:
            _flush(temporary)
    if survives_power_cut:
        _flush(pathlib.Path(path).parent)


def mend(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, whole or not at all, unless it is there as it should be."""
    path = pathlib.Path(path)
    if not path.is_file() or path.is_symlink() or path.read_bytes() != content:
        write_whole(path, content)


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
