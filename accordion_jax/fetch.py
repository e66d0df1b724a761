"""Fetches a model from an endpoint or a web server, as far as the link lets it, and runs it.

  python -m accordion_jax.fetch URL --link_bps=1e6 --deadline_s=0.3   what arrives in time
  python -m accordion_jax.fetch URL --upgrade                         the rest, and nothing twice
  python -m accordion_jax.fetch URL --step_down=3                     at most 3 blocks; no network

URL is that of an endpoint (http://127.0.0.1:8000), or of a bundle's folder on any web server. What
was fetched stays in --cache. With --predict the model runs from the moment its base is in.
"""

import logging
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.connection import environment_client
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.progress import TransferProgress, summary
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import CacheLimitError, DeliveryError
from accordion_jax.delivery.planner import Requirements
from accordion_jax.delivery.runtimes.predicting import Predictor
from accordion_jax.system import command
from accordion_jax.system.numbers import Number, WholeNumber

_CACHE = flags.DEFINE_string(
    "cache", "~/.cache/accordion_jax", "Folder that keeps what was fetched."
)
_CACHE_LIMIT_BYTES = flags.DEFINE(
    WholeNumber(1), "cache_limit_bytes", None, "Delete models used least recently to stay under it."
)
_MODEL = flags.DEFINE_string("model", "latest", "model_id; an endpoint also knows 'latest'.")
_DEADLINE_S = flags.DEFINE(
    Number(0), "deadline_s", None, "Run what has arrived so many seconds after the request."
)
_MAX_ERROR = flags.DEFINE(
    Number(0, 1),
    "max_error",
    None,
    "Stop at the smallest configuration with this top-1 error, 0 to 1.",
)
_CONFIDENCE = flags.DEFINE(
    Number(0.5, 1),
    "confidence",
    None,
    "Plan by what the errors are at most, with this confidence (0.95, say), not as measured.",
)
_MAX_BYTES = flags.DEFINE(WholeNumber(0), "max_bytes", None, "Bytes of segments to receive now.")
_MAX_MACS = flags.DEFINE(
    WholeNumber(0),
    "max_macs",
    None,
    "Multiply-accumulates for one image that the device can run.",
)
_MAX_MEMORY_BYTES = flags.DEFINE(
    WholeNumber(0),
    "max_memory_bytes",
    None,
    "Bytes of unpacked weights that the device can hold.",
)
_UPGRADE = flags.DEFINE_bool("upgrade", False, "Fetch all that is missing of the full model.")
_STEP_DOWN = flags.DEFINE_integer(
    "step_down", None, "Use at most this many blocks from what is held; no network.", 0
)
_LINK_BPS = flags.DEFINE(
    Number(1), "link_bps", None, "Receive no faster than this, in bits a second: 1e6, say."
)
_TRACE = flags.DEFINE_string(
    "trace", None, "Receive at the pace of this CSV (time_s,downlink_mbps)."
)
_LATENCY_S = flags.DEFINE(
    Number(0), "latency_s", 0.0, "Seconds added to each request, with --link_bps or --trace."
)
_EXPECT_BPS = flags.DEFINE(
    Number(0),
    "expect_bps",
    None,
    "Bits a second for the first plan, until some are measured; or --link_bps.",
)
_TIMEOUT_S = flags.DEFINE(
    Number(0.01), "timeout_s", 10.0, "Seconds without a byte, until a connection is lost."
)
_TRUST = flags.DEFINE_string(
    "trust",
    None,
    "Trust file to pin: from now on nothing is taken into --cache that its keys did not sign.",
)
_PREDICT = flags.DEFINE_string(
    "predict",
    None,
    "Examples to run it on: FILE.npy with the inputs (images: uint8, [n, height, width, colours]), "
    "FILE.npz with arrays of the task's names ('images', or 'features', and maybe 'labels'), or "
    "'random'.",
)
command.renamed(
    {
        "mbps": "--link_bps (in bits a second)",
        "expect_mbps": "--expect_bps (in bits a second)",
        "deadline_ms": "--deadline_s (in seconds)",
        "latency_ms": "--latency_s (in seconds)",
        "cache_limit_mb": "--cache_limit_bytes (in bytes)",
    }
)


def main(argv: Sequence[str]) -> None:
    """Connects, fetches or steps down, predicts, and prints a summary."""
    if len(argv) != 2:
        raise app.UsageError(f"give one URL; got {argv[1:]}")
    if _STEP_DOWN.value is not None and _UPGRADE.value:
        raise app.UsageError("give --upgrade or --step_down, not both")
    for chatty in ("httpx", "jax"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if _LINK_BPS.value is not None and _TRACE.value is not None:
        raise app.UsageError("give --link_bps or --trace, not both")
    client = environment_client(
        rate_bps=_LINK_BPS.value, trace=_TRACE.value, latency_s=_LATENCY_S.value
    )
    cache = SegmentCache(_CACHE.value, limit_bytes=_CACHE_LIMIT_BYTES.value)
    with client:
        transport = HttpTransport(argv[1], client=client, timeout_s=_TIMEOUT_S.value)
        device = Device(transport, cache, trust=_TRUST.value)
        progress = TransferProgress(device)
        device.add_listener(progress)
        start_s = device.clock.now()
        device.connect(
            _MODEL.value,
            offline=_STEP_DOWN.value is not None,
            deadline_s=_DEADLINE_S.value,
            ask=_ask(),
        )
        predictor = None
        if _PREDICT.value:
            loading_s = device.clock.now()
            runtimes.find(device.manifest)
            # Loading JAX takes a second, which is not the link's: the deadline is.
            start_s += device.clock.now() - loading_s
            predictor = Predictor(device, _PREDICT.value, start_s)
        too_small = None
        try:
            if _STEP_DOWN.value is not None:
                device.step_down(depth=_STEP_DOWN.value, max_macs=_MAX_MACS.value)
            elif _UPGRADE.value:
                device.upgrade()
            else:
                _fetch(device, start_s)
        except CacheLimitError as error:
            if device.in_use is None:
                raise
            too_small = error  # what is here already runs all the same
        progress.close()
        print(summary(device))
        if predictor:
            print(predictor.finish())
        device.close()
    if too_small:
        raise too_small
    if device.in_use is None:
        raise command.CommandError(
            "not even the base of the model is here, so there is nothing to run yet; what has "
            "arrived is kept: give the same command again, with more time or bytes"
        )
    missing_bytes = device.holding.missing_bytes
    if _UPGRADE.value and device.newer:
        raise command.CommandError(
            "the newer version could not be fetched, for the problems above; the one before stays "
            "in use, and the same command goes on from there"
        )
    if _UPGRADE.value and missing_bytes:
        raise command.CommandError(
            f"the full model is not complete: {missing_bytes} bytes are missing, for the problems "
            "above. What has arrived is kept and in use; the same command goes on from there"
        )


def _ask() -> Requirements:
    """What the first request asks an endpoint for.

    Where nobody knows what the link carries, that is all up to the full model, in sending order: at
    the deadline the device hangs up.
    """
    if _UPGRADE.value:
        return Requirements()
    known = _requirements()
    has_both = _DEADLINE_S.value is not None and known["throughput_bps"] is not None
    return Requirements(deadline_s=_DEADLINE_S.value if has_both else None, **known)


def _requirements() -> dict[str, Any]:
    return {
        "max_bytes": _MAX_BYTES.value,
        "throughput_bps": _EXPECT_BPS.value or _LINK_BPS.value,
        "max_error": _MAX_ERROR.value,
        "max_macs": _MAX_MACS.value,
        "max_memory_bytes": _MAX_MEMORY_BYTES.value,
        "confidence": _CONFIDENCE.value,
    }


def _fetch(device: Device, start_s: float) -> None:
    requirements = _requirements()
    if _DEADLINE_S.value is None:
        device.fetch(**requirements)
    else:
        # The device asked when it asked for the manifest.
        spent_s = device.clock.now() - start_s
        device.fetch_by(max(0.0, _DEADLINE_S.value - spent_s), **requirements)


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError,), argv=argv)


if __name__ == "__main__":
    run()
