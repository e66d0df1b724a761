"""Plans a second and their latency, as a function call and over HTTP, the server on one core.

    python -m benchmarks.delivery.plans

ResNet-134 with CoML's 67 depths in 4 and in 8 bits: 134 segments in 200 configurations, a third of
them off the default path. Requirements and held segments are drawn at random. The function is timed
by the clock and by the time that the processor spends in it, of which other work on the machine is
no part; the last column holds the slowest hundredth against the 100 us that a plan may take.

Time on two CPU cores: half a minute.
"""

import concurrent.futures
import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.planner import Requirements, plan
from benchmarks.delivery.setting import Address, Connection, endpoint, pin, post
from benchmarks.options import DEPTH_N, JSON, run
from benchmarks.ours import write_random_bundle
from benchmarks.report import Report
from benchmarks.timing import clocked

_PLANS = flags.DEFINE_integer("plans", 5000, "Of each measurement.", 1)
_BITS = flags.DEFINE_list("in_bits", ["4", "8"], "A weight, as accordion_jax.bundle takes them.")
_CONNECTIONS = flags.DEFINE_list("connections", ["1", "8"], "At once; several figures.")

Question = tuple[dict[str, Any], list[str]]


def draw_questions(manifest: Manifest, count: int) -> Iterator[Question]:
    """Yields requirements and held digests: any of the bounds; a device that has the first few."""
    rng = np.random.default_rng(0)
    order = [segment.sha256 for segment in manifest.segments]
    for _ in range(count):
        requirements: dict[str, Any] = {
            "throughput_bps": float(10 ** rng.uniform(5, 8.5)),
            "deadline_s": float(10 ** rng.uniform(-2, 1)),
        }
        if rng.random() < 0.5:
            requirements["max_error"] = float(rng.uniform(0.05, 0.9))
        if rng.random() < 0.3:
            requirements["max_macs"] = int(rng.integers(5_000_000, 300_000_000))
        if rng.random() < 0.3:
            requirements["max_memory_bytes"] = int(rng.integers(100_000, 9_000_000))
        yield requirements, order[: rng.integers(0, len(order) + 1)] if rng.random() < 0.5 else []


def as_functions(manifest: Manifest, questions: Sequence[Question]) -> list[Callable[[], object]]:
    """Returns a call of the pure planner for each question."""
    prepared = [(Requirements(**asked), frozenset(held)) for asked, held in questions]
    return [functools.partial(plan, manifest, *each) for each in prepared]


def over_http(
    address: Address, manifest: Manifest, questions: Sequence[Question]
) -> list[Callable[[], object]]:
    """Returns a request over one connection, which waits for its answer, for each question."""
    connection = Connection(address)
    path = f"/v1/models/{manifest.model_id}/plan"
    bodies = (json.dumps({"requirements": asked, "held": held}) for asked, held in questions)
    return [functools.partial(connection.exchange, post(path, body)) for body in bodies]


def main() -> None:
    """Writes the bundle, and times both."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_random_bundle(
            pathlib.Path(folder), DEPTH_N.value, list(map(int, _BITS.value))
        )
        manifest = read_manifest(bundle)
        questions = list(draw_questions(manifest, _PLANS.value))
        held = np.mean([len(held) for _, held in questions])
        title = f"{len(manifest.ladder)} configurations, {held:.0f} segments held on average"
        with Report(title, JSON.value) as report, endpoint(bundle.parent) as address:
            report.table(
                {"": "", "plans/s": ".0f", "p50, us": ".0f", "p99, us": ".0f"}
                | {"p99 / 100 us": ".2f"}
            )

            def measure(
                name: str,
                parts: Sequence[Sequence[Callable[[], object]]],
                clock: Callable[[], float] = time.perf_counter,
            ) -> None:
                """Times all calls, each part in a thread of its own."""
                with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
                    began = time.perf_counter()
                    done = pool.map(lambda part: [clocked(call, clock)() for call in part], parts)
                    seconds = np.concatenate(list(done))
                    rate = len(seconds) / (time.perf_counter() - began)
                half, most = np.percentile(seconds, (50, 99)) * 1e6
                report.row(name, rate, half, most, most / 100)

            pin(0, 1)
            calls = as_functions(manifest, questions)
            measure("as a function", [calls])
            measure("as a function, processor time", [calls], time.thread_time)
            for call in over_http(address, manifest, questions[:500]):
                call()  # warms up
            for count in map(int, _CONNECTIONS.value):
                parts = [over_http(address, manifest, questions[i::count]) for i in range(count)]
                measure(f"over HTTP, connections: {count}", parts)


if __name__ == "__main__":
    run(main, depth_n=22)
