"""Time to the first prediction against time to the full model, over slowed real connections.

    python -m benchmarks.delivery.first_prediction --repeats=3 --rates_bps=1e6,100e6

ResNet-(6n+2) with random weights (delivery does not look at them), images of 32 x 32, CoML. The
endpoint runs in a process of its own; the connection is real, and slowed in the client by a token
bucket. Times are from the request for the manifest, with the software loaded but nothing compiled
and nothing cached.

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
from accordion_jax.delivery.links.traces import constant
from accordion_jax.delivery.runtimes.runtime import Runtime
from benchmarks.delivery.setting import endpoint
from benchmarks.options import DEPTH_N, JSON, REPEATS, run
from benchmarks.ours import write_random_bundle
from benchmarks.report import Report
from benchmarks.timing import Sample
from benchmarks.work import IMAGE_SHAPE

_RATES = flags.DEFINE_list("rates_bps", ["1e6", "5e6", "20e6", "100e6"], "Of the link, bits/s.")

MILESTONES = ("manifest", "base", "first prediction", "full download", "full prediction")


def measure(url: str, rate_bps: float, folder: pathlib.Path) -> dict[str, float]:
    """One device, new to the model: seconds from its request to each milestone.

    Raises:
      RuntimeError: the model did not come whole.
    """
    link = ThrottledTransport(httpx.HTTPTransport(), Link(constant(rate_bps=rate_bps)))
    image = np.zeros((1, *IMAGE_SHAPE), np.uint8)
    found: dict[str, float] = {}
    with httpx.Client(transport=link) as client:
        device = Device(HttpTransport(url, client=client), SegmentCache(folder))

        def predict(runtime: Runtime, _configuration: object) -> None:
            runtime.predict(image)
            found.setdefault("first prediction", time.monotonic() - start)

        def note_base(event: Event) -> None:
            if event.kind == "segment":
                found.setdefault("base", time.monotonic() - start)

        start = time.monotonic()
        manifest = device.connect()
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
    return found


def main() -> None:
    """Measures each rate, and prints a row for it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        manifest = read_manifest(write_random_bundle(folder / "bundles", DEPTH_N.value))
        raw = sum(segment.tensor_bytes for segment in manifest.segments)
        title = (
            f"{len(manifest.segments)} segments, {manifest.size_bytes} bytes on the wire, {raw} of "
            f"tensors, base {manifest.segments[0].size_bytes}; seconds from the request"
        )
        with Report(title, JSON.value) as report, endpoint(folder / "bundles") as (host, port):
            jax.jit(lambda x: x + 1)(1)  # JAX is up before the first request.
            report.table({"Mbit/s": "g"} | dict.fromkeys(MILESTONES, ".2f"))
            for rate_bps in map(float, _RATES.value):
                runs = [
                    measure(f"http://{host}:{port}", rate_bps, folder / f"cache-{rate_bps:g}-{i}")
                    for i in range(REPEATS.value)
                ]
                samples = (Sample(tuple(run[name] for run in runs)) for name in MILESTONES)
                report.row(rate_bps / 1e6, *samples)


if __name__ == "__main__":
    run(main, depth_n=18, repeats=3)
