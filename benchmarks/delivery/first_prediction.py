"""Time to the first prediction against time to the full model, over slowed real connections.

    python -m benchmarks.delivery.first_prediction --repeats=3 --rates_bps=1e6,100e6

ResNet-(6n+2) with random weights (delivery does not look at them), images of 32 x 32, CoML. The
endpoint runs in a process of its own; the connection is real, and slowed in the client by a token
bucket, with --latency_s for each request. Times are from the first request on, with the software
loaded but nothing compiled and nothing cached. `requests` are those that were sent until the first
prediction.

Time on two CPU cores: four minutes, of which most is ResNet-110 at 1 Mbit/s.
"""

import pathlib
import tempfile
import time

import httpx
import jax
import numpy as np
from absl import flags

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.events import Event
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.links.link import Link, ThrottledTransport
from accordion_jax.delivery.links.replay import head_bytes
from accordion_jax.delivery.links.traces import constant
from accordion_jax.delivery.planner import Requirements
from accordion_jax.delivery.runtimes.runtime import Runtime
from accordion_jax.system.numbers import Number
from benchmarks.delivery.setting import endpoint
from benchmarks.options import DEPTH_N, JSON, REPEATS, run
from benchmarks.ours import write_random_bundle
from benchmarks.report import Report
from benchmarks.timing import Sample
from benchmarks.work import IMAGE_SHAPE

_RATES = flags.DEFINE_list("rates_bps", ["1e6", "5e6", "20e6", "100e6"], "Of the link, bits/s.")
_LATENCY_S = flags.DEFINE(
    Number(0), "latency_s", 0.03, "From a request until the first byte of its answer can come."
)

MILESTONES = ("manifest", "base", "first prediction", "full download", "full prediction")


class _Counted(httpx.HTTPTransport):
    """Counts requests."""

    requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return super().handle_request(request)


def measure(
    url: str, rate_bps: float, folder: pathlib.Path, latency_s: float
) -> tuple[dict[str, float], int]:
    """One device, new to the model: seconds from its request to each milestone.

    Args:
      url: of the endpoint.
      rate_bps: of the link.
      folder: for the device's cache.
      latency_s: of each request.

    Returns:
      The seconds, and how many requests were sent until the first prediction.

    Raises:
      RuntimeError: the model did not come whole.
    """
    counted = _Counted()
    link = ThrottledTransport(counted, Link(constant(rate_bps=rate_bps)), latency_s=latency_s)
    requests: list[int] = []
    image = np.zeros((1, *IMAGE_SHAPE), np.uint8)
    found: dict[str, float] = {}
    with httpx.Client(transport=link) as client:
        device = Device(HttpTransport(url, client=client), SegmentCache(folder))

        def predict(runtime: Runtime, _configuration: object) -> None:
            runtime.predict(image)
            found.setdefault("first prediction", time.monotonic() - start)
            requests.append(counted.requests)

        def note_base(event: Event) -> None:
            if event.kind == "segment":
                found.setdefault("base", time.monotonic() - start)

        start = time.monotonic()
        manifest = device.connect(ask=Requirements())
        found["manifest"] = time.monotonic() - start
        device.add_listener(note_base)
        runtime = Runtime(device, on_swap=predict)
        outcome = device.upgrade()
        found["full download"] = time.monotonic() - start
        if device.in_use is not None:
            runtime.wait(configuration=device.in_use.name)
        runtime.predict(image)
        found["full prediction"] = time.monotonic() - start
        runtime.close()
        device.close()
    if outcome.problems or outcome.transferred_bytes != manifest.size_bytes:
        raise RuntimeError(
            f"{outcome.transferred_bytes} of {manifest.size_bytes} bytes came: {outcome.problems}"
        )
    return found, requests[0]


def main() -> None:
    """Measures each rate, and prints a row for it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        manifest = read_manifest(write_random_bundle(folder / "bundles", DEPTH_N.value))
        raw = sum(segment.tensor_bytes for segment in manifest.segments)
        title = (
            f"{len(manifest.segments)} segments, {manifest.size_bytes} bytes on the wire, {raw} of "
            f"tensors, base {manifest.segments[0].size_bytes}, {head_bytes(manifest)} before it; "
            f"round trip {_LATENCY_S.value:g} s; seconds from the request"
        )
        with Report(title, JSON.value) as report, endpoint(folder / "bundles") as (host, port):
            jax.jit(lambda x: x + 1)(1)  # JAX is up before the first request.
            report.table({"Mbit/s": "g", "requests": "d"} | dict.fromkeys(MILESTONES, ".2f"))
            for rate_bps in map(float, _RATES.value):
                runs = [
                    measure(
                        f"http://{host}:{port}",
                        rate_bps,
                        folder / f"cache-{rate_bps:g}-{i}",
                        _LATENCY_S.value,
                    )
                    for i in range(REPEATS.value)
                ]
                samples = (Sample(tuple(run[name] for run, _ in runs)) for name in MILESTONES)
                report.row(rate_bps / 1e6, max(count for _, count in runs), *samples)


if __name__ == "__main__":
    run(main, depth_n=18, repeats=3)
