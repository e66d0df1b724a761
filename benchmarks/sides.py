"""How a benchmark runs one side of its work in a process of its own."""

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

_REST_S = 0.3  # until the threads of a side no longer spin
_object: Any = None  # of a side's process


def _make(make: Callable[..., Any], *args: Any) -> None:
    global _object
    _object = make(*args)


def _call(method: str, *args: Any) -> Any:
    return getattr(_object, method)(*args)


class Side:
    """An object in a process of its own; a call of one of its methods is made there.

    So that neither side holds the other's memory or threads, that each starts with nothing traced
    or compiled, and that each has the environment that it needs before JAX starts.

    Attributes:
      started: `time.time` just before the process was started.
    """

    def __init__(
        self, make: Callable[..., Any], *args: Any, environment: Mapping[str, str] | None = None
    ):
        """Starts the process, and returns when the object is there.

        Args:
          make: class, or function of a module, that makes the object.
          *args: of it.
          environment: variables that the process has beside those of this one.
        """
        spawn = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(1, spawn)
        self.started = time.time()
        before = dict(os.environ)
        # Several processes may share a GPU: none takes all of its memory beforehand.
        os.environ.update({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | dict(environment or {}))
        try:
            made = self._pool.submit(_make, make, *args)  # the first task starts the process
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            made.result()
        except BaseException:
            self._pool.shutdown()
            raise

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Returns a function that calls a method there, and waits for its result."""
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any) -> Any:
            result = self._pool.submit(_call, method, *args).result()
            time.sleep(_REST_S)
            return result

        return call

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
