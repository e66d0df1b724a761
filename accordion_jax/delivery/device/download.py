"""One segment on its way to the disk."""

import hashlib
import os
import pathlib
from collections.abc import Callable

from accordion_jax.delivery.errors import DiskFullError, SegmentError
from accordion_jax.system.room import FULL

_CHUNK_BYTES = 1 << 16


class Download:
    """The part of a segment that has arrived, growing. Made by `SegmentCache.download`.

    Attributes:
      sha256: of the whole segment.
      size_bytes: of the whole segment.
      received_bytes: so far, those of earlier attempts included.
    """

    def __init__(
        self,
        part: pathlib.Path,
        whole: pathlib.Path,
        sha256: str,
        size_bytes: int,
        make_room: Callable[[], int],
    ):
        """Opens the part, and reads what is there already.

        Args:
          part: path of what has arrived.
          whole: path of the segment, once it is checked.
          sha256: of the whole segment.
          size_bytes: of the whole segment.
          make_room: deletes what nobody needs from a full disk, and returns the bytes freed.
        """
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self._path, self._whole, self._make_room = part, whole, make_room
        self._digest = hashlib.sha256()
        self.received_bytes = 0
        if self._path.exists() and self._path.stat().st_size > size_bytes:
            self._path.unlink()
        # Unbuffered: after any write, what the file holds is what was received.
        self._file = self._path.open("ab", buffering=0)
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                self._digest.update(chunk)
                self.received_bytes += len(chunk)

    @property
    def missing_bytes(self) -> int:
        """How many are still to come."""
        return self.size_bytes - self.received_bytes

    def write(self, chunk: bytes) -> None:
        """Appends bytes.

        Raises:
          SegmentError: more than are missing; nothing is written.
          DiskFullError: no room is left, even without what other models left in the cache. What
            was written before stays, so a later download goes on from there.
        """
        if len(chunk) > self.missing_bytes:
            raise SegmentError(
                f"segment {self.sha256} got {self.received_bytes + len(chunk)} bytes; the manifest "
                f"says {self.size_bytes}. The server sends something else: ask for it again"
            )
        view = memoryview(chunk)
        evicted = False
        while view:
            try:
                written = self._file.write(view)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not evicted and self._make_room():
                    evicted = True
                    continue
                raise DiskFullError(
                    f"no room in {self._path.parent} for the last {self.missing_bytes} of "
                    f"{self.size_bytes} bytes of segment {self.sha256} "
                    f"({os.strerror(error.errno)}); free some, or put the cache elsewhere"
                ) from error
            self._digest.update(view[:written])
            self.received_bytes += written
            view = view[written:]

    def finish(self) -> None:
        """Checks size and digest, and makes the segment visible.

        Raises:
          SegmentError: they differ; what was received is thrown away.
        """
        if self.missing_bytes:
            raise SegmentError(
                f"segment {self.sha256} has {self.received_bytes} of {self.size_bytes} bytes; "
                "write the rest before finishing"
            )
        found = self._digest.hexdigest()
        if found != self.sha256:
            self.discard()
            raise SegmentError(
                f"segment {self.sha256} arrived with SHA-256 {found}; its {self.size_bytes} bytes "
                "were thrown away. The server or something on the way changed them: ask again"
            )
        self._file.close()
        try:
            self._path.replace(self._whole)
        except FileNotFoundError:
            raise SegmentError(
                f"{self._path} was deleted while it grew (by hand, or by another process for whom "
                "it was not pinned); fetch the segment again"
            ) from None

    def discard(self) -> None:
        """Throws away what was received."""
        if not self._file.closed:
            self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.received_bytes = 0

    def close(self) -> None:
        """Leaves what was received for a later download."""
        self._file.close()
