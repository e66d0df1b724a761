"""How long it takes until a run trains: stages unrolled or scanned, cold or from the cache.

    python -m benchmarks.compilers.variants --depth_n=18 --variants=6

Prints two tables for the training step of ResNet-(6n+2), unrolled and with
``run.scan_stages=True``: the time from the start of a process to the end of its first full step,
with an empty and with a filled persistent cache, and of the steps after it (what scanning costs
while it trains); and the time for many variants with several compilations at once.

Each figure comes from a fresh process, since JAX keeps what it has traced and compiled; "cold" is
an empty folder for the persistent cache, "warm" the folder that the cold process has left. What of
it is tracing, lowering and compiling, JAX says itself of each program: JAX_LOG_COMPILES=1.

Time on two CPU cores: three minutes for --depth_n=3 --variants=4 --workers=1,2 --steps=3. All
54 variants of a ResNet-110, cold, once for each of --workers, take far longer there: --variants=6.
"""

import itertools
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from benchmarks.options import JSON, STEPS, WAYS, asked, run
from benchmarks.ours import Ours
from benchmarks.report import Report
from benchmarks.sides import Side
from benchmarks.timing import Sample
from benchmarks.work import Options, evenly_spaced

_VARIANTS = flags.DEFINE_integer("variants", 0, "Of the second table, evenly spaced; 0: all.", 0)
_WORKERS = flags.DEFINE_list("workers", ["1", "2", "4"], "Compilations at once; several figures.")


class Compiling(Ours):
    """Our side, with a folder for compiled programs, counting those that it finds there."""

    def __init__(self, options: Options, way: str, cache: str):
        """Makes the run, its stages "unrolled" or "scanned"; no step is compiled yet."""
        self._hits = 0
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.monitoring.register_event_listener(self._count_hit)
        super().__init__(options, {"run.scan_stages": way == "scanned"})

    def _count_hit(self, event: str, **_: Any) -> None:
        self._hits += event == "/jax/compilation_cache/cache_hits"

    def first_step(self, started: float) -> tuple[float, float, int]:
        """Returns seconds from `started` until a full step was asked for, and done; cache hits."""
        set_up_s = time.time() - started
        self.train([self.options.full])
        return set_up_s, time.time() - started, self._hits

    def later_steps(self, steps: int) -> Sample:
        """Takes full steps; returns their seconds."""
        return Sample(tuple(self.train([self.options.full]) for _ in range(steps)))

    def many(self, depths: Sequence[int], workers: int) -> tuple[float, int]:
        """Compiles steps, several at once; returns the seconds, and how many the cache had."""
        before = self._hits
        return self.compile([self.options.mask(n) for n in depths], workers), self._hits - before


def main() -> None:
    """Measures and prints."""
    options, ways, steps = asked(), WAYS.value, STEPS.value
    depths = evenly_spaced(options.blocks, _VARIANTS.value)
    with (
        Report(f"{options}: seconds from the start of a process", JSON.value) as report,
        tempfile.TemporaryDirectory(prefix="accordion-compiling-") as folder,
    ):
        report.table(
            {"full depth": "", "cache": "", "set-up, s": ".1f", "first step done, s": ".1f"}
            | {"found in the cache": "d", "later steps, s": ".3f"}
        )
        for way, cache in itertools.product(ways, ("cold", "warm")):
            with Side(Compiling, options, way, f"{folder}/{way}") as side:
                first = side.first_step(side.started)
                report.row(way, cache, *first, side.later_steps(steps) if cache == "warm" else None)
                devices = side.hardware()
        report.note(f"on {devices}")
        report.table(
            {f"{len(depths)} variants": "", "cache": "", "at once": "d", "seconds": ".1f"}
            | {"found in the cache": "d"}
        )
        for way, count, cache in itertools.product(ways, _WORKERS.value, ("cold", "warm")):
            with Side(Compiling, options, way, f"{folder}/{way}{count}") as side:
                report.row(way, cache, int(count), *side.many(depths, int(count)))


if __name__ == "__main__":
    run(main, depth_n=18, steps=3)
