"""Shows a person how a transfer goes: bytes, depth in use, expected error."""

import sys
from typing import TextIO

import tqdm

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.events import Event
from accordion_jax.delivery.errors import TrustError
from accordion_jax.system.text import printable


class TransferProgress:
    """A listener of a device that draws a bar on a terminal, and writes plain lines elsewhere.

    Args:
      device: whose events it is given.
      out: where to.
    """

    def __init__(self, device: Device, out: TextIO = sys.stderr):
        self._device = device
        self._out = out
        self._bar: tqdm.tqdm | None = None
        self._shown: Configuration | None = None
        self._start_s = device.clock.now()

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        if event.kind == "problem":
            tqdm.tqdm.write(f"problem: {printable(event.message)}", file=self._out)
        elif self._out.isatty():
            self._draw(event)
        elif event.kind == "use" and self._device.in_use != self._shown:
            self._shown = self._device.in_use
            seconds = self._device.clock.now() - self._start_s
            print(
                f"{seconds:7.2f} s  {event.received_bytes:>9,} bytes  {self._in_use()}",
                file=self._out,
                flush=True,
            )

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, event: Event) -> None:
        if self._bar is None:
            if event.kind not in ("plan", "bytes"):
                return
            self._bar = tqdm.tqdm(unit="B", unit_scale=True, file=self._out, mininterval=0.05)
        self._bar.total = event.target_bytes
        self._bar.set_description(self._in_use(), refresh=False)
        self._bar.update(event.received_bytes - self._bar.n)

    def _in_use(self) -> str:
        in_use = self._device.in_use
        if in_use is None:
            return "nothing complete yet"
        row = self._device.holding.row(in_use)
        bits = _bits(self._device.manifest, in_use)
        return f"in use {in_use.name}, depth {row.depth}{bits}, expected error {row.top1_error:.4f}"


def _bits(manifest: Manifest, configuration: Configuration) -> str:
    """``, 4 to 8 bits``: of its weights, as they were sent; nothing where that is not known."""
    bits = manifest.bits(configuration)
    if bits is None:
        return ""
    least, most = bits
    return f", {most} bits" if least == most else f", {least} to {most} bits"


def _vouched(device: Device) -> list[str]:
    """Who answers for the model, where a key is pinned."""
    if not device.pins.is_pinned:
        return []
    try:
        found = device.pins.accepted(device.manifest.model_id, str(device.transport.address))
    except TrustError:  # of which a problem has told
        return ["trust        what this device has pinned cannot be read"]
    if found is None:
        return []
    return [
        f"trust        version {found.version} of line {found.line}, signature verified; expires "
        f"{found.expires or 'never'}"
    ]


def summary(device: Device) -> str:
    """Returns what a person wants to know after a transfer, a fact a line."""
    manifest, outcome, in_use = device.manifest, device.outcome(), device.in_use
    full = manifest.table.full
    lines = [
        f"model        {manifest.model_id[:16]}, {printable(manifest.model['family'])}, "
        f"{full.depth} blocks, {manifest.size_bytes:,} bytes"
    ]
    lines += _vouched(device)
    if in_use:
        row = device.holding.row(in_use)
        lines += [
            f"in use       {in_use.name}: {row.depth} of {full.depth} blocks"
            f"{_bits(manifest, in_use)}, {100 * row.share_of_bytes:.0f} % of the bytes, "
            f"{100 * row.macs / max(full.macs, 1):.0f} % of the operations",
            f"error        {row.top1_error:.4f} expected ({row.error_low:.4f} to "
            f"{row.error_high:.4f}); the full model's is {full.top1_error:.4f}",
        ]
    else:
        lines.append("in use       nothing: not even the base is complete yet")
    rate = f", {outcome.throughput_bps / 1e6:.2f} Mbit/s" if outcome.throughput_bps else ""
    manifest_bytes = device.transport.other_bytes
    seconds = f" in {outcome.seconds:.2f} s{rate}" if outcome.transferred_bytes else ""
    lines += [
        f"transferred  {outcome.transferred_bytes:,} bytes of segments{seconds}; "
        f"{manifest_bytes:,} of manifest",
        f"cached       {outcome.cached_bytes:,} bytes before; "
        f"{device.holding.missing_bytes:,} bytes of the full model are missing",
    ]
    if device.newer:
        lines.append(
            f"newer        {device.newer.model_id[:16]} takes over once its first configuration "
            "is here; give the same command again"
        )
    lines += [f"unmet        {printable(reason)}" for reason in outcome.reasons]
    return "\n".join(lines)
