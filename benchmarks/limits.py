"""What the device at hand can do at most: arithmetic, memory traffic, launches."""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import hlo

_CHAINS = (8, 64)  # tiny operations; the difference of the two is free of the dispatch
_LARGEST_MATRIX = 16_384


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one device, each the best of several tries.

    Attributes:
      matmul_flops: precision -> FLOP/s of a large matrix product at JAX's default precision.
      memory_bytes: B/s to and from arrays that no cache holds.
      cache_bytes: B/s to and from an array of the size of `cache_size_bytes`.
      cache_size_bytes: of that array.
      operation_s: seconds of one more tiny operation within a program.
      dispatch_s: seconds of one more execution of a tiny program, started from the host.
    """

    matmul_flops: dict[str, float]
    memory_bytes: float
    cache_bytes: float
    cache_size_bytes: int
    operation_s: float
    dispatch_s: float


def measure(*, large_bytes: int, cache_size_bytes: int, seconds: float = 0.1) -> Limits:
    """Returns the limits of the first device of this process.

    Args:
      large_bytes: of each array of the memory test; well beyond every cache.
      cache_size_bytes: of the array of the cache test: that of the features between two layers.
      seconds: that one matrix product should take at least, for which it grows.
    """
    precisions = ("float32", "bfloat16")
    return Limits(
        {name: matmul_flops(name, seconds) for name in precisions},
        memory_bandwidth(large_bytes),
        repeated_bandwidth(cache_size_bytes),
        cache_size_bytes,
        operation_seconds(),
        dispatch_seconds(),
    )


def matmul_flops(precision: str, seconds: float) -> float:
    """Returns FLOP/s of a square matrix product, grown until it takes long enough.

    Args:
      precision: "float32" or "bfloat16", of the arrays.
      seconds: that it should take at least; it stops growing at 16,384 rows.
    """
    product = jax.jit(lambda a, b: a @ b)
    size = 512
    while True:
        a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(precision))
        taken = _best(functools.partial(product, a, a), 3)
        if taken >= seconds or size >= _LARGEST_MATRIX:
            return 2 * size**3 / taken
        size *= 2


def memory_bandwidth(array_bytes: int) -> float:
    """Returns B/s of the better of two loops over arrays of this size.

    x = 1 - x (one read, one write) and x = y - x / 2 (two reads, one write), in place, so that no
    fresh pages are counted. Bytes are those that the loop names, as XLA's own count has them: a
    write that first reads the line, as on many CPUs, counts once.

    Args:
      array_bytes: of each array.
    """
    length = max(1, array_bytes // 4)
    copy = jax.jit(lambda x: 1.0 - x, donate_argnums=0)
    triad = jax.jit(lambda x, y: y - 0.5 * x, donate_argnums=0)
    x, y = jnp.ones(length, jnp.float32), jnp.ones(length, jnp.float32)

    def run_copy() -> jax.Array:
        nonlocal x
        x = copy(x)
        return x

    def run_triad() -> jax.Array:
        nonlocal x
        x = triad(x, y)
        return x

    return max(8 * length / _best(run_copy, 5), 12 * length / _best(run_triad, 5))


def repeated_bandwidth(array_bytes: int, times: int = 64) -> float:
    """Returns B/s of a program that goes through one array again and again.

    An array that a cache holds is read from there. On an accelerator the loop's own overhead, some
    microseconds a turn, counts in.

    Args:
      array_bytes: of the array.
      times: turns of the loop.
    """
    length = max(1, array_bytes // 4)
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, times, lambda _, x: 1.0 - x, x))
    x = jnp.ones(length, jnp.float32)
    return 8 * length * times / _best(lambda: loop(x), 5)


def operation_seconds() -> float:
    """Returns the seconds of one more tiny operation, of a chain in which each needs the last.

    From two chains of different length, each divided by the operations that its compiled program
    does launch. On GPUs a chain runs as XLA runs a step there: in command buffers, where it uses
    them.
    """
    taken, launched = [], []
    for length in _CHAINS:
        compiled = jax.jit(functools.partial(_chain, length)).lower(jnp.ones(128)).compile()
        launched.append(hlo.parse(compiled.as_text()).launches())
        taken.append(_best(functools.partial(compiled, jnp.ones(128)), 200))
    if launched[1] <= launched[0]:
        raise RuntimeError(
            f"chains of {_CHAINS} operations compile to {launched}: XLA fused them, so the time of "
            "one cannot be told"
        )
    return max(0.0, taken[1] - taken[0]) / (launched[1] - launched[0])


def dispatch_seconds(times: int = 200) -> float:
    """Returns the seconds of one more execution of a tiny program, each fed with the last's result.

    Args:
      times: executions of one measurement.
    """
    step = jax.jit(lambda x: x + 1.0)

    def run() -> jax.Array:
        x = jnp.zeros(())
        for _ in range(times):
            x = step(x)
        return x

    return _best(run, 5) / times


def _chain(length: int, x: jax.Array) -> jax.Array:
    """A chain that XLA cannot fuse: each link needs the sum over the whole of the last."""
    for _ in range(length):
        x = x - 0.001 * jnp.sum(x)
    return x


def _best(run: Callable[[], jax.Array], repeats: int) -> float:
    """The least seconds of a function; called once before, uncounted."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - started)
    return min(taken)
