"""Fetches a model from an endpoint or a web server, as far as the link lets it, and runs it.

  python -m accordion_jax.fetch URL --mbps=1 --deadline_ms=300   what arrives in time
  python -m accordion_jax.fetch URL --upgrade                    the rest, and nothing twice
  python -m accordion_jax.fetch URL --step_down=3                at most 3 blocks; no network

URL is that of an endpoint (http://127.0.0.1:8000), or of a bundle's folder on any web server. What
was fetched stays in --cache. With --predict the model runs from the moment its base is in.
"""

import logging
import pathlib
import sys
from typing import Any

import httpx
from absl import app, flags

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.progress import Progress, summary
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.links.link import Link, ThrottledTransport
from accordion_jax.delivery.links.traces import constant, read_trace
from accordion_jax.delivery.runtimes.predicting import Predictor

_CACHE = flags.DEFINE_string(
    "cache", "~/.cache/accordion_jax", "Folder that keeps what was fetched."
)
_CACHE_LIMIT_MB = flags.DEFINE_float(
    "cache_limit_mb", None, "Delete models used least recently to stay under it.", 0.001
)
_MODEL = flags.DEFINE_string("model", "latest", "model_id; an endpoint also knows 'latest'.")
_DEADLINE_MS = flags.DEFINE_float(
    "deadline_ms", None, "Run what has arrived this long after the request.", 0
)
_MAX_ERROR = flags.DEFINE_float(
    "max_error", None, "Stop at the smallest configuration with this top-1 error, 0 to 1.", 0, 1
)
_MAX_BYTES = flags.DEFINE_integer("max_bytes", None, "Bytes of segments to receive now.", 0)
_MAX_MACS = flags.DEFINE_integer(
    "max_macs", None, "Multiply-accumulates for one image that the device can run.", 0
)
_UPGRADE = flags.DEFINE_bool("upgrade", False, "Fetch all that is missing of the full model.")
_STEP_DOWN = flags.DEFINE_integer(
    "step_down", None, "Use at most this many blocks from what is held; no network.", 0
)
_MBPS = flags.DEFINE_float("mbps", None, "Receive no faster than this, in 10^6 bit/s.", 1e-6)
_TRACE = flags.DEFINE_string(
    "trace", None, "Receive at the pace of this CSV (time_s,downlink_mbps)."
)
_LATENCY_MS = flags.DEFINE_float(
    "latency_ms", 0, "Added to each request, with --mbps or --trace.", 0
)
_EXPECT_MBPS = flags.DEFINE_float(
    "expect_mbps", None, "Throughput for the first plan, until one is measured; or --mbps.", 0
)
_TIMEOUT_S = flags.DEFINE_float(
    "timeout_s", 10, "Without a byte, until a connection is lost.", 0.01
)
_PLAN_AT_ENDPOINT = flags.DEFINE_bool(
    "plan_at_endpoint", False, "Let the endpoint make the first plan; else all are made here."
)
_PREDICT = flags.DEFINE_string(
    "predict",
    None,
    "Examples to run it on: FILE.npy with the inputs (images: uint8, [n, height, width, colours]), "
    "FILE.npz with arrays of the task's names ('images', or 'features', and maybe 'labels'), or "
    "'random'.",
)


def main(argv: list[str]) -> None:
    """Connects, fetches or steps down, predicts, and prints a summary."""
    if len(argv) != 2:
        raise app.UsageError(f"give one URL; got {argv[1:]}")
    if _STEP_DOWN.value is not None and _UPGRADE.value:
        raise app.UsageError("give --upgrade or --step_down, not both")
    for chatty in ("httpx", "jax"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        in_use = _run(argv[1])
    except (DeliveryError, ValueError, FileNotFoundError) as error:
        sys.exit(f"fetch: {error}")
    if not in_use:
        sys.exit(1)


def _run(url: str) -> bool:
    limit_mb = _CACHE_LIMIT_MB.value
    cache = SegmentCache(
        pathlib.Path(_CACHE.value).expanduser(),
        limit_bytes=None if limit_mb is None else int(limit_mb * 1e6),
    )
    with httpx.Client(transport=_link()) as client:
        transport = HttpTransport(url, client=client, timeout_s=_TIMEOUT_S.value)
        device = Device(transport, cache, plan_at_endpoint=_PLAN_AT_ENDPOINT.value)
        progress = Progress(device)
        device.add_listener(progress)
        start_s = device.clock.now()
        device.connect(_MODEL.value, offline=_STEP_DOWN.value is not None)
        predictor = None
        if _PREDICT.value:
            loading_s = device.clock.now()
            runtimes.find(device.manifest)
            # Loading JAX takes a second, which is not the link's: the deadline is.
            start_s += device.clock.now() - loading_s
            predictor = Predictor(device, _PREDICT.value, start_s)
        if _STEP_DOWN.value is not None:
            device.step_down(depth=_STEP_DOWN.value, max_macs=_MAX_MACS.value)
        elif _UPGRADE.value:
            device.upgrade()
        else:
            _fetch(device, start_s)
        progress.close()
        print(summary(device))
        if predictor:
            print(predictor.finish())
        device.close()
        return device.in_use is not None


def _link() -> httpx.BaseTransport:
    """A real connection, slowed as the flags say."""
    if _MBPS.value is not None and _TRACE.value is not None:
        raise ValueError("give --mbps or --trace, not both")
    connection = httpx.HTTPTransport()
    if _MBPS.value is None and _TRACE.value is None:
        return connection
    trace = constant(_MBPS.value) if _MBPS.value is not None else read_trace(_TRACE.value or "")
    return ThrottledTransport(connection, Link(trace), latency_s=_LATENCY_MS.value / 1e3)


def _fetch(device: Device, start_s: float) -> None:
    expected_mbps = _EXPECT_MBPS.value or _MBPS.value
    requirements: dict[str, Any] = {
        "max_bytes": _MAX_BYTES.value,
        "throughput_bps": expected_mbps and expected_mbps * 1e6,
        "max_error": _MAX_ERROR.value,
        "max_macs": _MAX_MACS.value,
    }
    if _DEADLINE_MS.value is None:
        device.fetch(**requirements)
    else:
        # The device asked when it asked for the manifest.
        spent_s = device.clock.now() - start_s
        device.fetch_by(max(0.0, _DEADLINE_MS.value / 1e3 - spent_s), **requirements)


if __name__ == "__main__":
    app.run(main)
