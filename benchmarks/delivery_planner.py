"""Plans a second and their latency, as a function call and over HTTP, the server on one core.

  python -m benchmarks.delivery_planner

ResNet-110 with CoML's 55 configurations; requirements and held segments drawn at random.
"""

import json
import pathlib
import statistics
import tempfile
import threading
import time

import numpy as np

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.planner import Requirements, plan
from benchmarks.delivery_setting import Connection, cpu_seconds, endpoint, pin, write_resnet
from benchmarks.machine import machine

PLANS = 5000
CONNECTIONS = 8


def draw_questions(manifest, count):
    """Requirements and held digests: any of the bounds, and a device that has the first n."""
    rng = np.random.default_rng(0)
    order = [segment.sha256 for segment in manifest.segments]
    for _ in range(count):
        requirements = {
            "throughput_bps": float(10 ** rng.uniform(5, 8.5)),
            "deadline_s": float(10 ** rng.uniform(-2, 1)),
        }
        if rng.random() < 0.5:
            requirements["max_error"] = float(rng.uniform(0.05, 0.9))
        if rng.random() < 0.3:
            requirements["max_macs"] = int(rng.integers(5_000_000, 300_000_000))
        held = order[: rng.integers(0, len(order) + 1)] if rng.random() < 0.5 else []
        yield requirements, held


def report(name, seconds, wall_s, cpu_s):
    """Prints one line: rate, median, 99th percentile, processor time of the planning side."""
    micro = np.array(seconds) * 1e6
    print(
        f"{name:26s} {len(seconds) / wall_s:9.0f} plans/s   "
        f"p50 {np.percentile(micro, 50):6.0f} us   p99 {np.percentile(micro, 99):6.0f} us   "
        f"CPU {cpu_s / len(seconds) * 1e6:5.0f} us a plan"
    )


def as_a_function(manifest, questions):
    """Times the pure planner."""
    prepared = [(Requirements(**req), frozenset(held)) for req, held in questions]
    seconds = []
    started, cpu = time.perf_counter(), time.process_time()
    for requirements, held in prepared:
        before = time.perf_counter()
        plan(manifest, requirements, held)
        seconds.append(time.perf_counter() - before)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    report("as a function", seconds, wall_s, cpu_s)


def over_http(server, manifest, questions, connections):
    """Times the endpoint with so many connections that wait for their answers."""
    address, process = server
    requests = []
    for requirements, held in questions:
        body = json.dumps({"requirements": requirements, "held": held}).encode()
        head = (
            f"POST /v1/models/{manifest.model_id}/plan HTTP/1.1\r\nHost: benchmark\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    seconds = []

    def ask(part):
        connection = Connection(address)
        for request in part:
            before = time.perf_counter()
            connection.exchange(request)
            seconds.append(time.perf_counter() - before)
        connection.close()

    threads = [
        threading.Thread(target=ask, args=(requests[i::connections],)) for i in range(connections)
    ]
    started, cpu = time.perf_counter(), cpu_seconds(process)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s, cpu_s = time.perf_counter() - started, cpu_seconds(process) - cpu
    plural = "s" if connections > 1 else ""
    report(f"over HTTP, {connections} connection{plural}", seconds, wall_s, cpu_s)


def main():
    """Writes the bundle, and times both."""
    print(machine("starlette", "uvicorn", "h11"))
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_resnet(pathlib.Path(folder), 18)
        manifest = read_manifest(bundle)
        questions = list(draw_questions(manifest, PLANS))
        held = statistics.mean(len(held) for _, held in questions)
        print(
            f"{len(manifest.ladder)} configurations, {PLANS} plans, {held:.0f} segments held on "
            "average"
        )
        with endpoint(bundle.parent) as server:
            pin(0, 1)
            as_a_function(manifest, questions)
            over_http(server, manifest, questions[:500], 1)  # warms up
            over_http(server, manifest, questions, 1)
            over_http(server, manifest, questions, CONNECTIONS)


if __name__ == "__main__":
    main()
