"""A cache of segments on disk, addressed by their SHA-256.

::

    FOLDER/segments/<sha256>.bin           whole, its digest checked before it got this name
    FOLDER/segments/<sha256>.part          the first bytes of one; a download goes on from there
    FOLDER/manifests/<model_id>.json       so that a device starts with no network
    FOLDER/sources/<digest of a URL>       the model last in use from there
    FOLDER/locks/                          one a download, one for evicting, one a process's pins

A segment gets its name by an atomic rename, so another process sees all of it or nothing. Nothing
is flushed to the platter: a power cut may leave a damaged file, and every file is hashed again
before it is used, so it is found and fetched again.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Collection, Iterator

from accordion_jax.delivery.bundle.manifest import is_digest
from accordion_jax.delivery.bundle.reading import segment_name
from accordion_jax.delivery.device.download import Download
from accordion_jax.delivery.errors import (
    CacheError,
    CacheLimitError,
    DiskFullError,
    SegmentError,
)
from accordion_jax.system.files import write_whole
from accordion_jax.system.locks import Lock, locked
from accordion_jax.system.room import FULL

_PINS_S = 24 * 3600.0


class SegmentCache:
    """Segments on disk, shared by any number of processes.

    Args:
      folder: is made if it is not there; ``~`` is the user's home.
      limit_bytes: of segments and parts together; None is no limit. To stay under it the segments
        used least recently are deleted, never those that a running process has pinned.

    Raises:
      ValueError: the limit is not positive.
      CacheError: the folder cannot be made; says why, and what to do.
    """

    def __init__(self, folder: str | os.PathLike, *, limit_bytes: int | None = None):
        if limit_bytes is not None and limit_bytes <= 0:
            raise ValueError(f"limit_bytes={limit_bytes} must be positive, or None for no limit")
        self.limit_bytes = limit_bytes
        try:
            self.folder = pathlib.Path(folder).expanduser()
            for name in ("segments", "manifests", "sources", "locks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # the latter: nobody knows where ~ is
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise CacheError(
                f"{folder} cannot be used as the folder of the cache ({why}); name another folder, "
                "one that can be written (--cache=FOLDER)"
            ) from error
        self._pins_path = self.folder / "locks" / f"{uuid.uuid4().hex}.pins"
        self._pins: frozenset[str] = frozenset()
        # Held as long as this object lives; the system frees it when the process dies.
        self._pins_lock = Lock(self._pins_path.with_suffix(".pinlock"))

    def path(self, sha256: str) -> pathlib.Path:
        """Where a whole segment is, or would be."""
        return self.folder / "segments" / segment_name(_checked(sha256))

    def received_bytes(self, sha256: str) -> int:
        """Bytes of a segment that are on disk already, whole or in part."""
        for path in (self.path(sha256), self._part(sha256)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def verify(self, sha256: str) -> bool:
        """Returns whether the segment is there and sound; a damaged one is deleted."""
        path = self.path(sha256)
        try:
            with path.open("rb") as file:
                sound = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:  # not there, or not to be read: then it must be fetched
            return False
        if sound:
            _touch(path)
        else:
            _delete(path)
        return sound

    def read(self, sha256: str) -> bytes:
        """Returns the bytes of a segment, checked.

        Raises:
          SegmentError: it is not there, or damaged (and now deleted): fetch it again.
        """
        path = self.path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise SegmentError(
                f"segment {sha256} is not in {self.folder}; fetch it again"
            ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            _delete(path)
            raise SegmentError(
                f"{path} has SHA-256 {found}: the file was damaged and is now deleted; fetch the "
                "segment again"
            )
        _touch(path)
        return content

    @contextlib.contextmanager
    def claim(self, sha256s: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Yields those that this process alone may download now: the first ones, as many as are
        free.

        Two processes that want the same model then load it once: the other sees the segments as
        they come in.

        Raises:
          DiskFullError: no room for another file.
        """
        with contextlib.ExitStack() as stack:
            mine = []
            for sha256 in sha256s:
                lock = Lock(self.folder / "locks" / f"{_checked(sha256)}.lock")
                with self._full_disk_named():
                    if not lock.acquire():
                        break
                stack.callback(lock.release)
                mine.append(sha256)
            yield tuple(mine)

    @contextlib.contextmanager
    def download(self, sha256: str, size_bytes: int) -> Iterator[Download]:
        """Yields the part of a claimed segment to go on with; what it gets stays when it ends.

        Raises:
          CacheLimitError: the limit leaves no room for it beside what is pinned.
          DiskFullError: no room for another file.
        """
        self._make_room(sha256, size_bytes)
        with self._full_disk_named():
            download = Download(
                self._part(sha256),
                self.path(sha256),
                sha256,
                size_bytes,
                lambda: self._evict(keep=(sha256,), wanted_bytes=None),
            )
        try:
            yield download
        finally:
            download.close()

    def pin(self, sha256s: Collection[str]) -> None:
        """Keeps these, and no longer those pinned before, from being evicted by any process."""
        pins = frozenset(_checked(sha256) for sha256 in sha256s)
        if pins == self._pins:
            return
        self._pins = pins
        with contextlib.suppress(OSError):  # A full disk: this process at least keeps them.
            if not self._pins_lock.is_held:
                self._pins_lock.acquire()
            with self._evicting():
                write_whole(self._pins_path, json.dumps(sorted(pins)))

    def close(self) -> None:
        """Gives up the pins."""
        self._pins = frozenset()
        if self._pins_lock.is_held:
            self._pins_path.unlink(missing_ok=True)
            self._pins_lock.release()
            self._pins_path.with_suffix(".pinlock").unlink(missing_ok=True)

    def save_manifest(self, model_id: str, document: bytes) -> None:
        """Keeps a manifest. A full disk is no error."""
        with contextlib.suppress(OSError):
            write_whole(self.folder / "manifests" / f"{_checked(model_id)}.json", document)

    def use_manifest(self, source: str, model_id: str) -> None:
        """Keeps that of all that `source` (a URL) gave this model is in use. As `save_manifest`."""
        with contextlib.suppress(OSError):
            write_whole(self._source(source), _checked(model_id))

    def load_manifest(self, source: str, model_id: str | None = None) -> bytes | None:
        """Returns the manifest of a model, or of the one in use from `source`; None if none is.

        It is for the reader to check.
        """
        with contextlib.suppress(OSError, UnicodeDecodeError):
            model_id = model_id or self._source(source).read_text(encoding="utf-8")
            if is_digest(model_id):
                return (self.folder / "manifests" / f"{model_id}.json").read_bytes()
        return None

    def _part(self, sha256: str) -> pathlib.Path:
        return self.path(sha256).with_suffix(".part")

    def _source(self, source: str) -> pathlib.Path:
        return self.folder / "sources" / hashlib.sha256(source.encode()).hexdigest()

    def _evicting(self) -> contextlib.AbstractContextManager[bool]:
        """Waits for the lock of whoever evicts, or changes what may be evicted."""
        return locked(self.folder / "locks" / "evict.lock", wait=True)

    @contextlib.contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise DiskFullError(
                f"no room in {self.folder} for a new file ({os.strerror(error.errno or 0)}); free "
                "some, or put the cache elsewhere"
            ) from error

    def _make_room(self, sha256: str, size_bytes: int) -> None:
        more_bytes = size_bytes - self.received_bytes(sha256)
        # What a manifest announces may be more than any disk has.
        if self._free_bytes() < more_bytes:
            self._evict(keep=(sha256,), wanted_bytes=None)
            if self._free_bytes() < more_bytes:
                raise DiskFullError(
                    f"no room in {self.folder} for {more_bytes} more bytes of segment {sha256} "
                    f"({os.strerror(errno.ENOSPC)}); free some, or put the cache elsewhere"
                )
        if self.limit_bytes is None:
            return
        self._evict(keep=(sha256,), wanted_bytes=size_bytes)
        used = self.size_bytes() - self._on_disk(self._part(sha256))
        if used + size_bytes > self.limit_bytes:
            raise CacheLimitError(
                f"the cache's limit of {self.limit_bytes} bytes leaves no room for the "
                f"{size_bytes} bytes of segment {sha256} beside {used} bytes that running models "
                f"need; raise the limit to at least {used + size_bytes}"
            )

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def size_bytes(self) -> int:
        """Bytes of all segments and parts."""
        return sum(self._on_disk(path) for path in (self.folder / "segments").iterdir())

    @staticmethod
    def _on_disk(path: pathlib.Path) -> int:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
        return 0

    def _evict(self, *, keep: Collection[str], wanted_bytes: int | None) -> int:
        """Deletes what was used least recently; returns the bytes freed.

        Args:
          keep: digests that stay, beside all that are pinned.
          wanted_bytes: to fit under the limit, parts of `keep` not counted; None deletes all that
            it may.
        """
        limit_bytes = self.limit_bytes if self.limit_bytes is not None else math.inf
        if wanted_bytes is None:
            wanted_bytes, limit_bytes = 0, -1
        with self._evicting():
            stay = self._pinned_by_anyone() | set(keep)
            entries = []
            used = freed = 0
            for path in (self.folder / "segments").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    if path.stem not in stay:
                        entries.append((status.st_mtime_ns, status.st_size, path))
                    if path.stem not in keep:
                        used += status.st_size
            for _, size, path in sorted(entries):
                if used - freed + wanted_bytes <= limit_bytes:
                    break
                path.unlink(missing_ok=True)
                freed += size
            return freed

    def _pinned_by_anyone(self) -> set[str]:
        pinned = set(self._pins)
        for path in (self.folder / "locks").glob("*.pins"):
            if path == self._pins_path:
                continue
            # Whoever holds the lock of its pins is alive; the pins of the dead are deleted. Without
            # locks nobody knows: then pins hold for a day.
            lock = Lock(path.with_suffix(".pinlock"))
            if lock.acquire() and (lock.keeps_others_out or _age_s(path) > _PINS_S):
                path.unlink(missing_ok=True)
                lock.release()
                path.with_suffix(".pinlock").unlink(missing_ok=True)
            else:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    pinned.update(json.loads(path.read_text(encoding="utf-8")))
        return pinned


def _checked(sha256: str) -> str:
    if not is_digest(sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256: wanted 64 hexadecimal digits in lower case")
    return sha256


def _age_s(path: pathlib.Path) -> float:
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _delete(path: pathlib.Path) -> None:
    """Deletes a damaged file; where that is not allowed it is found damaged again next time."""
    with contextlib.suppress(OSError):
        path.unlink()


def _touch(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), time.time_ns()))
