"""What `compile_time` measures, one measurement a process: compilations, and the first steps."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from accordion_jax import training
from accordion_jax.depth import SkipMask
from benchmarks.ours import Ours
from benchmarks.work import Options

_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
# Steps of a minute each are timed too, but not many of them.
_STEPS_S = 60.0


def in_fresh_process(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Returns what a function of this module returns in a process of its own.

    Its keyword argument `started` is the time (`time.time`) just before the process was started.
    """
    spawn = multiprocessing.get_context("spawn")
    started = time.time()
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(function, *args, started=started).result()


@dataclasses.dataclass
class Seconds:
    """What compiling some steps took, added up over them.

    Attributes:
      trace: from Python to a jaxpr; waiting for the interpreter's lock included.
      lower: from the jaxpr to StableHLO; likewise.
      python_cpu: processor time of both, waiting not included. It is spent under the interpreter's
        lock: several compilations at once take no less than this.
      compile: from StableHLO to a program, by XLA or from the cache.
      stablehlo_lines: of the programs before XLA.
      hlo_instructions: of the programs that XLA made.
    """

    trace: float = 0.0
    lower: float = 0.0
    python_cpu: float = 0.0
    compile: float = 0.0
    stablehlo_lines: int = 0
    hlo_instructions: int = 0


_this_thread = threading.local()


@functools.cache
def _listen_to_lowering() -> None:
    """From now on JAX adds the seconds of a thread's lowerings to its `_this_thread.lowering`."""

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == _LOWERED and hasattr(_this_thread, "lowering"):
            _this_thread.lowering += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)


class Timed:
    """A mapped step whose lowering and compiling are timed, from several threads where need be."""

    def __init__(self, function: Callable, seconds: Seconds, lock: threading.Lock, sizes: bool):
        """Takes the step, where to add up, and whether the sizes are wanted."""
        self._function, self._seconds = function, seconds
        self._lock, self._sizes = lock, sizes

    def lower(self, *args: Any) -> "Timed":
        """Traces and lowers, as `jax.stages.Wrapped`."""
        _listen_to_lowering()
        _this_thread.lowering = 0.0
        began, cpu = time.perf_counter(), time.thread_time()
        self._lowered = self._function.lower(*args)  # type: ignore[attr-defined]
        total, cpu = time.perf_counter() - began, time.thread_time() - cpu
        lowering = _this_thread.lowering
        with self._lock:
            self._seconds.trace += total - lowering
            self._seconds.lower += lowering
            self._seconds.python_cpu += cpu
        return self

    def compile(self, **options: Any) -> Callable:
        """Compiles, as `jax.stages.Lowered`."""
        began = time.perf_counter()
        compiled = self._lowered.compile(**options)
        spent = time.perf_counter() - began
        with self._lock:
            self._seconds.compile += spent
            if self._sizes:
                self._seconds.stablehlo_lines += self._lowered.as_text().count("\n")
                self._seconds.hlo_instructions += compiled.as_text().count(" = ")
        return compiled


def measured(options: Options, scan: bool, sizes: bool = False) -> tuple[Ours, Seconds]:
    """Returns the side of the benchmark, and where what its compilations take is added up."""
    ours = Ours(options, {"run.scan_stages": scan})
    seconds, lock, make = Seconds(), threading.Lock(), ours._step_of

    def timed(skip_mask: SkipMask) -> tuple[Any, tuple]:
        function, arguments = make(skip_mask)
        return Timed(function, seconds, lock, sizes), arguments

    ours.variants = training.Variants(timed, training.cpu_compiler_options())
    return ours, seconds


@contextlib.contextmanager
def _cache(folder: str) -> Iterator[list[int]]:
    """Keeps compiled programs in a folder (none where empty); counts those found there."""
    hits = [0]

    def listen(event: str, **_: Any) -> None:
        hits[0] += event == _CACHE_HIT

    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


def one_depth(options: Options, scan: bool, depth: int, *, started: float) -> dict[str, Any]:
    """Returns what compiling the step of one depth takes, and the sizes of its program.

    Args:
      options: the size of the work.
      scan: whether stages are scanned.
      depth: blocks kept.
      started: not used; see `in_fresh_process`.
    """
    del started
    ours, seconds = measured(options, scan, sizes=True)
    ours.variants(options.mask(depth))
    return dataclasses.asdict(seconds)


def first_step(
    options: Options, scan: bool, cache: str, steps: int, *, started: float
) -> dict[str, Any]:
    """Returns the time to the end of the first step at full depth, and of the steps after it.

    Args:
      options: the size of the work.
      scan: whether stages are scanned.
      cache: folder of the compilation cache; empty: none.
      steps: to time after the first; fewer where they take more than a minute together.
      started: when the process was started, of `time.time`.

    Returns:
      "setup_s": from the start until the step's compilation begins; "first_step_s": from the start
      to the end of the first step; "steps_s": of each later step; "hits": programs found in the
      cache; "facts": versions and hardware; and the fields of `Seconds`.
    """
    full = [options.mask(options.blocks)]
    with _cache(cache) as hits:
        ours, seconds = measured(options, scan)
        setup_s = time.time() - started
        ours.take(full)
        first_step_s = time.time() - started
    taken: list[float] = []
    while len(taken) < steps and sum(taken) < _STEPS_S:
        taken.append(ours.take(full))
    measurements = {"setup_s": setup_s, "first_step_s": first_step_s, "steps_s": taken}
    facts = ours.facts()
    return measurements | {"hits": hits[0], "facts": facts} | dataclasses.asdict(seconds)


def many_variants(
    options: Options,
    scan: bool,
    cache: str,
    depths: tuple[int, ...],
    workers: int,
    *,
    started: float,
) -> dict[str, Any]:
    """Returns what it takes to compile the steps of many depths, several at once.

    Args:
      options: the size of the work.
      scan: whether stages are scanned.
      cache: folder of the compilation cache; empty: none.
      depths: blocks kept.
      workers: compilations at once.
      started: not used; see `in_fresh_process`.

    Returns:
      "wall_s", from the first to the last; "hits": steps found in the cache; and the fields of
      `Seconds`.
    """
    del started
    with _cache(cache) as found:
        ours, seconds = measured(options, scan)
        before, began = found[0], time.perf_counter()
        for _ in ours.variants.compile_ahead([options.mask(depth) for depth in depths], workers):
            pass
        wall_s = time.perf_counter() - began
        hits = found[0] - before
    return {"wall_s": wall_s, "hits": hits} | dataclasses.asdict(seconds)


def spread(of: list[float]) -> str:
    """Returns the median (least to most) as text."""
    return f"{statistics.median(of):.3f} ({min(of):.3f} to {max(of):.3f})"
