"""Memory of the endpoint's process, which goes back to the system after a crowd.

The C library keeps what was freed, in a pool for each thread, and gives back only what lies at a
pool's end; a gauge of memory would then not tell a leak from a peak.
"""

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK_EVERY_S = 15.0
# So many connections are no crowd: looking through what they hold takes some milliseconds.
_FEW = 64
_M_ARENA_MAX = -8  # of glibc's malloc.h


@contextmanager
def given_back(connections: Callable[[], int]) -> Iterator[None]:
    """A context in which memory that a crowd has left is given back now and then.

    Args:
      connections: returns how many there are now.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    choose = getattr(library, "mallopt", None)
    if choose is not None:
        # One pool for all threads: they take turns anyway, and what a trim leaves of each adds up.
        choose(_M_ARENA_MAX, 1)
    gc.collect()
    # What is there from the start stays. Looking through it again and again stands all threads
    # still for tenths of a second.
    gc.freeze()
    ended = threading.Event()
    trim = getattr(library, "malloc_trim", None)
    thread = threading.Thread(target=_now_and_then, args=(ended, connections, trim), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        gc.unfreeze()


def _now_and_then(
    ended: threading.Event, connections: Callable[[], int], trim: Callable[[int], int] | None
) -> None:
    most = 0
    while not ended.wait(_LOOK_EVERY_S):
        now = connections()
        most = max(most, now)
        # A crowd may come and go between two looks. While it is there, it would take again at once
        # what it has just freed, and wait for this.
        if now <= max(_FEW, most // 2):
            gc.collect()
            if trim is not None:
                trim(0)
            most = now
