"""Compiled steps, one a draw: made when first drawn, or ahead of time, several at once."""

import concurrent.futures
import functools
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import jax

from accordion_jax.training.objective import Draw

CompilerOptions = dict[str, str | bool]

# Element-wise operations and reductions fused by YNNPACK took a ResNet-20 step on two cores from
# 0.58 s to 0.34 s, and a fifth off its compilation; fusing convolutions too was slower.
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"
}
# XLA's own choice of what it records as CUDA graphs, and convolutions beside it: without them next
# to nothing of a network is recorded, and each small kernel waits for the host.
_CUDA = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION"
    )
}


@functools.cache
def _takes(name: str, value: str) -> bool:
    """Whether this XLA and processor know the option; tried once, by compiling with it."""
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:  # an XLA that lacks the option, or a processor YNN lacks
        return False
    return True


def compiler_options() -> CompilerOptions:
    """Returns XLA options that make a convolutional step faster here, where XLA knows them."""
    options = _CPU if jax.default_backend() == "cpu" else {}
    if "cuda" in jax.local_devices()[0].client.platform_version.lower():
        options = _CUDA
    return {name: value for name, value in options.items() if _takes(name, value)}


class Variants:
    """The compiled step of each draw.

    Attributes:
      compiled: how many variants have been compiled.
    """

    def __init__(
        self,
        make: Callable[[Draw], tuple[Callable, tuple]],
        compiler_options: CompilerOptions | None = None,
    ):
        """Starts with none compiled.

        Args:
          make: draw -> (function with a `lower` method, such as a pmapped one, and the
            arguments, or their shapes, to compile it for).
          compiler_options: of XLA.
        """
        self._make = make
        self._options = compiler_options or {}
        self._futures: dict[Draw, concurrent.futures.Future] = {}
        self._lock = threading.Lock()
        self._background: concurrent.futures.ThreadPoolExecutor | None = None

    def __call__(self, drawn: Draw) -> Callable[..., Any]:
        """Returns the compiled step, compiling it or waiting for it where it is not ready."""
        return self._future(drawn).result()

    @property
    def compiled(self) -> int:
        """How many variants have been compiled."""
        return sum(future.done() for future in self._futures.values())

    def compile_ahead(self, draws: Iterable[Draw], workers: int = 0):
        """Compiles variants, several at once, and yields each draw when it is done.

        XLA compiles outside the interpreter's lock, so threads suffice.

        Args:
          draws: in the order in which they should be ready.
          workers: compilations at once; 0 is one a CPU core.

        Yields:
          Each draw, as its compilation ends.
        """
        with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            running = {pool.submit(self._future, drawn): drawn for drawn in draws}
            for done in concurrent.futures.as_completed(running):
                done.result().result()
                yield running[done]

    def compile_in_background(self, draws: Iterable[Draw], workers: int = 0) -> None:
        """Starts to compile variants, and returns; who asks for one waits for that one alone.

        Args:
          draws: in the order in which they will be needed.
          workers: compilations at once; 0 leaves one CPU core to the caller.
        """
        if self._background is not None:
            raise RuntimeError("compile_in_background was called before; close the variants first")
        workers = workers or max(1, (os.cpu_count() or 1) - 1)
        self._background = concurrent.futures.ThreadPoolExecutor(workers)
        for drawn in draws:
            self._background.submit(self._future, drawn)

    def close(self) -> None:
        """Drops the compilations in the background that have not begun."""
        if self._background is not None:
            self._background.shutdown(wait=False, cancel_futures=True)
            self._background = None

    def _future(self, drawn: Draw) -> concurrent.futures.Future:
        with self._lock:
            known = self._futures.get(drawn)
            if known is not None:
                return known
            future: concurrent.futures.Future = concurrent.futures.Future()
            self._futures[drawn] = future
        try:
            function, arguments = self._make(drawn)
            lowered = function.lower(*arguments)  # type: ignore[attr-defined]
            future.set_result(lowered.compile(compiler_options=self._options or None))
        except BaseException as error:
            future.set_exception(error)
        return future
