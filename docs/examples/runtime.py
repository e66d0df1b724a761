"""A runtime of one's own, smallest: a linear model that runs on the features it has weights for.

  python docs/examples/runtime.py

In the package, `Linear` would be a file in accordion_jax/delivery/runtimes/, and its entry a line
in the dictionary there. Writes a bundle into a temporary folder, serves it as any web server would,
fetches it segment by segment, and prints the error at each configuration.
"""

import contextlib
import functools
import http.server
import pathlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from sklearn.datasets import load_digits

from accordion_jax import tasks
from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import ModelError
from accordion_jax.delivery.runtimes.examples import share_wrong
from accordion_jax.delivery.runtimes.runtime import Runtime
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row

STEP = 16  # features a segment
SEGMENTS = 4


class Linear:
    """Scores of the first features: a segment is the weights of some more of them."""

    kinds = frozenset({"features"})

    def __init__(self, manifest: Manifest, task: tasks.Task):
        self.task = task
        self._classes = manifest.model["arguments"]["classes"]

    def load(self, name: str, content: bytes, refined: Any = None) -> np.ndarray:
        """Returns [features, classes] float32 weights; no segment refines others here."""
        del refined
        weights = safetensors.numpy.load(content).get("weights")
        if weights is None or weights.shape != (STEP, self._classes):
            raise ModelError(f"segment {name!r} has no weights of {STEP} features")
        return weights

    def compile(
        self, configuration: Configuration, segments: Sequence[np.ndarray], batch_size: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function from [batch, features] to [batch, classes] float32 scores."""
        del configuration, batch_size  # The segments say it all, and NumPy takes any batch.
        weights = np.concatenate(segments)
        return lambda features: features[:, : len(weights)] @ weights


runtimes.RUNTIMES["linear"] = runtimes.Entry(f"{__name__}.Linear", extra="device")


def cut(weights: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the arguments of `write_bundle`, with errors measured on rows held out.

    Args:
      weights: [SEGMENTS * STEP, classes] float32.
      rows: [n, SEGMENTS * STEP] float32.
      labels: [n] integers.
    """
    features, classes = weights.shape
    names = ["base", *(f"features{index}" for index in range(1, SEGMENTS))]
    ladder = make_ladder("coml", (SEGMENTS - 1,))
    cost = UnitCost(parameters=STEP * classes, size_bytes=4 * STEP * classes, macs=STEP * classes)
    table, configurations = [], []
    for each in ladder:
        kept = STEP * (each.depth + 1)
        wrong = (rows[:, :kept] @ weights[:kept]).argmax(-1) != labels
        table.append(
            make_row(
                ladder,
                each,
                base=cost,
                blocks=(cost,) * (SEGMENTS - 1),
                examples=len(rows),
                errors=int(wrong.sum()),
                cross_entropy=0.0,  # scores of least squares are no probabilities
            )
        )
        configurations.append(
            {"name": each.name, "segments": names[: each.depth + 1], "skip_mask": each.skip_mask}
        )
    return {
        "segments": {
            name: {"weights": part}
            for name, part in zip(names, np.split(weights, SEGMENTS), strict=True)
        },
        "ladder": configurations,
        "model": {
            "runtime": "linear",
            "family": "linear",
            "arguments": {"classes": classes},
            "input": tasks.describe(tasks.Features((features,))),
        },
        "table": LookupTable(tuple(table), {}),
        "provenance": {},
    }


def main() -> None:
    """Trains, cuts, writes, fetches and runs."""
    rows, labels = load_digits(return_X_y=True)
    # The features that vary most come first.
    rows = rows[:, np.argsort(-rows.var(axis=0), kind="stable")].astype(np.float32)
    right = np.eye(10, dtype=np.float32)[labels]
    weights = np.linalg.lstsq(rows[:1200], right[:1200])[0]
    rows, labels = rows[1200:], labels[1200:]
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(folder, **cut(weights, rows, labels))
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{bundle.name}"
        with contextlib.closing(HttpTransport(url)) as transport:
            device = Device(transport, SegmentCache(pathlib.Path(folder) / "cache"))
            manifest = device.connect(bundle.name)
            runtime = Runtime(device, batch_sizes=(len(rows),))
            for configuration in manifest.ladder:
                device.upgrade(configuration.name)
                runtime.wait(configuration=device.in_use.name)
                outputs, name, expected_error = runtime.predict(rows)
                error = share_wrong(runtime.task, outputs, labels)
                print(f"{name}: error {error:.4f}, expected {expected_error:.4f}")
            runtime.close()
            device.close()
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server of files that logs nothing."""

    def log_message(self, *args: Any) -> None:
        """Logs nothing."""


if __name__ == "__main__":
    main()
