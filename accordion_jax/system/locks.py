"""Locks between processes: the one way in which this package keeps them apart.

A lock is held by an open file, so that it ends with its process, however that ends. Where there can
be none (some file systems of clusters and networks, a folder that cannot be written), work goes on
without: each write is a rename of something whole, so that at worst work is done twice.
"""

import contextlib
import errno
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import filelock

from accordion_jax.system.room import FULL, NoRoomError

_log = logging.getLogger(__name__)

# Files can be closed, and then there are locks.
_TOO_MANY = {errno.EMFILE, errno.ENFILE}


class Lock:
    """One lock, from `acquire` to `release`; the system releases it where the process ends.

    Args:
      path: of a file made for this lock alone; it stays when the lock is gone.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        # Its soft lock is a file that outlives a process that is killed.
        self._lock = filelock.FileLock(self.path, thread_local=False, fallback_to_soft=False)
        self._without = False

    def acquire(self, *, wait: bool = False, on_wait: Callable[[], None] | None = None) -> bool:
        """Returns whether the lock is held now; True too where there can be no locks.

        Args:
          wait: until whoever holds it lets it go; otherwise returns False at once.
          on_wait: is called before it waits.

        Raises:
          NoRoomError: the disk is full.
          OSError: the process has too many files open.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except filelock.Timeout:
                if not wait:
                    return False
                if on_wait is not None:
                    on_wait()
                self._lock.acquire()
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise NoRoomError(self.path, os.strerror(error.errno)) from error
            if isinstance(error, OSError) and error.errno in _TOO_MANY:
                raise
            _log.warning("no lock at %s (%s); going on without", self.path, error)
            self._without = True
        return True

    def release(self) -> None:
        """Lets it go; does nothing where it is not held."""
        self._without = False
        if self._lock.is_locked:
            self._lock.release()

    @property
    def keeps_others_out(self) -> bool:
        """Whether it is held, and by a lock: False where it is only believed to be."""
        return self._lock.is_locked

    @property
    def is_held(self) -> bool:
        """Whether `acquire` succeeded, and `release` was not called since."""
        return self._without or self._lock.is_locked


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, *, wait: bool = False, on_wait: Callable[[], None] | None = None
) -> Iterator[bool]:
    """Yields whether this process holds the lock; lets it go at the end.

    Args:
      path: as `Lock`.
      wait: as `Lock.acquire`.
      on_wait: as `Lock.acquire`.
    """
    lock = Lock(path)
    held = lock.acquire(wait=wait, on_wait=on_wait)
    try:
        yield held
    finally:
        lock.release()
