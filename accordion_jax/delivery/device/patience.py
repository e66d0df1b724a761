"""Work that is waited for only so long, whatever it hangs in."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def within(seconds: float, work: Callable[[], _T], name: str) -> _T:
    """Returns what `work` does, which is left alone in a thread of its own if it takes longer.

    A time-out of a socket is one without a byte: a byte now and then keeps it open for ever.

    Args:
      seconds: of the real clock.
      work: must not mind that nobody waits any more.
      name: of the thread.

    Raises:
      TimeoutError: it was not done in time; or what it raised.
    """
    done: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name=name).start()
    return done.result(timeout=seconds)
