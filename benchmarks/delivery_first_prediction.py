"""Time to the first prediction against time to the full model, over slowed real connections.

  python -m benchmarks.delivery_first_prediction [--runs=3] [--mbps=1,5,20,100] [--blocks=18]

ResNet-(6 blocks + 2) with random weights (delivery does not look at them), images of 32 x 32, CoML.
The endpoint runs in a process of its own; the connection is real, and slowed in the client by a
token bucket. Times are from the request for the manifest, with the software loaded but nothing
compiled and nothing cached. Prints medians, and the range over the runs.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import httpx
import jax
import numpy as np

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.events import Event
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.links.link import Link, ThrottledTransport
from accordion_jax.delivery.links.traces import constant
from accordion_jax.delivery.runtimes.runtime import Runtime
from benchmarks.delivery_setting import SHAPE, endpoint, write_resnet
from benchmarks.machine import machine


def measure(url: str, mbps: float, folder: pathlib.Path) -> dict[str, float]:
    """One device, new to the model: seconds from its request to each milestone."""
    link = ThrottledTransport(httpx.HTTPTransport(), Link(constant(rate_bps=mbps * 1e6)))
    image = np.zeros((1, *SHAPE), np.uint8)
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
        runtime.wait(configuration=manifest.ladder[-1].name)
        runtime.predict(image)
        found["full prediction"] = time.monotonic() - start
        runtime.close()
        device.close()
    assert not outcome.problems, outcome.problems
    assert outcome.transferred_bytes == manifest.size_bytes
    return found


def main() -> None:
    """Measures each rate, and prints a row for it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mbps", default="1,5,20,100")
    parser.add_argument("--blocks", type=int, default=18, help="a stage; 18 is ResNet-110")
    options = parser.parse_args()
    print(machine("jax", "flax", "httpx", "uvicorn", "starlette"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        manifest = read_manifest(write_resnet(folder / "bundles", options.blocks))
        raw = sum(segment.tensor_bytes for segment in manifest.segments)
        print(
            f"ResNet-{6 * options.blocks + 2}: {len(manifest.segments)} segments, "
            f"{manifest.size_bytes} bytes on the wire, {raw} of tensors "
            f"(+{100 * (manifest.size_bytes / raw - 1):.2f} %); base "
            f"{manifest.segments[0].size_bytes} bytes"
        )
        with endpoint(folder / "bundles") as ((host, port), _):
            url = f"http://{host}:{port}"
            jax.jit(lambda x: x + 1)(1)  # JAX is up before the first request.
            milestones = ["manifest", "base", "first prediction", "full download"]
            milestones.append("full prediction")
            print(f"median seconds (range) of {options.runs} runs from the request to")
            print(f"{'Mbit/s':>7}  " + "  ".join(f"{name:>22}" for name in milestones))
            for mbps in map(float, options.mbps.split(",")):
                runs = [
                    measure(url, mbps, folder / f"cache-{mbps:g}-{run}")
                    for run in range(options.runs)
                ]
                cells = []
                for name in milestones:
                    seconds = [run[name] for run in runs]
                    spread = f"({min(seconds):.2f}-{max(seconds):.2f})"
                    cells.append(f"{statistics.median(seconds):.2f} {spread}")
                print(f"{mbps:7g}  " + "  ".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
