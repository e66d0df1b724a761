"""The planner: what to send to a device, given what it needs and what it has.

Steps 2 and 5 of the paper's protocol as one pure function. The endpoint answers requests with it,
and a device that holds the manifest plans for itself with the same code.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.depth.bounds import risk_of

# Of a throughput (1 Pbit/s) or a deadline (30 million years): more is a mistake of units.
MOST = 10**15
_WHOLE = ("max_bytes", "max_macs", "max_memory_bytes")
# In the order in which they are looked at.
_BOUNDS = ("max_macs", "max_memory_bytes", "max_bytes", "deadline_s")


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What a device asks for; None leaves a thing open, and any combination is allowed.

    Attributes:
      max_bytes: bound on the bytes that are transferred now.
      deadline_s: bound on the time that the transfer takes; needs throughput_bps.
      throughput_bps: of the link, in bits a second. 0: nothing gets through.
      max_error: the top-1 error to reach, 0 to 1: asks for as few bytes as reach it. Without it,
        the least error within the bounds is asked for.
      max_macs: bound on the multiply-accumulates for one image that the device can run.
      max_memory_bytes: bound on the bytes of the tensors that it needs, unpacked: float32 for a
        network, however few bits a weight were sent.
      confidence: in [0.5, 1). Plans by upper bounds of the errors that hold with this confidence
        over the images that they were measured on (`LookupTable.upper_bounds`), in place of the
        errors measured: max_error is then not reached by luck alone.

    Raises:
      ValueError: a value is negative, not finite, or of the wrong type, max_error is above 1,
        confidence is no probability in [0.5, 1), or deadline_s comes without throughput_bps; names
        the value.
    """

    max_bytes: int | None = None
    deadline_s: float | None = None
    throughput_bps: float | None = None
    max_error: float | None = None
    max_macs: int | None = None
    confidence: float | None = None
    max_memory_bytes: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            whole = field.name in _WHOLE
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ValueError(
                    f"{field.name}={value!r} must be {'an integer' if whole else 'a number'}"
                )
            if not whole and not value <= MOST:
                raise ValueError(
                    f"{field.name}={value!r} must be finite, at most {MOST}; leave it out"
                )
            if value < 0:
                raise ValueError(f"{field.name}={value!r} must not be negative")
        if self.max_error is not None and self.max_error > 1:
            raise ValueError(
                f"max_error={self.max_error!r} must be a share from 0 to 1, not a percentage"
            )
        if self.confidence is not None:
            risk_of(self.confidence)
        if self.deadline_s is not None and self.throughput_bps is None:
            raise ValueError(
                f"deadline_s={self.deadline_s!r} needs throughput_bps: without it no one knows "
                "what arrives in time"
            )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Requirements":
        """Returns the requirements of a JSON object, whose numbers may be ``1.0`` for 1.

        Raises:
          ValueError: as the class, or an unknown name; names it and those there are.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(document.keys() - set(names))
        if unknown:
            raise ValueError(f"requirement {unknown[0]!r} is not known; known: {', '.join(names)}")
        return cls(
            **{
                name: int(value)
                if name in _WHOLE and isinstance(value, float) and value.is_integer()
                else value
                for name, value in document.items()
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns those that are set, as a JSON object."""
        return {name: v for name, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
      configuration: what the device can run when all of `missing` has arrived; None if not even the
        smallest is within the bounds.
      missing: the segments to send, in sending order; segments of equal content once.
      transfer_bytes: their wire bytes.
      expected_error: top-1 error of the configuration, from the look-up table.
      error_bound: what it is at most, with the confidence asked for; None where none was.
      expected_seconds: that the transfer takes; None if throughput_bps is not given, or is too low
        for the time to be finite.
      unmet: names of the requirements that cannot be met.
      reasons: one a name in `unmet`: the value, what there is instead, and what would help.
    """

    configuration: str | None
    missing: tuple[Segment, ...]
    transfer_bytes: int
    expected_error: float | None
    error_bound: float | None
    expected_seconds: float | None
    unmet: tuple[str, ...]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as a JSON object."""
        document = dataclasses.asdict(self)
        return document | {
            "missing": [
                {"name": s.name, "sha256": s.sha256, "size_bytes": s.size_bytes}
                for s in self.missing
            ]
        }


def plan(
    manifest: Manifest,
    requirements: Requirements,
    held: Collection[str] = (),
    begun: Mapping[str, int] | None = None,
) -> Plan:
    """Returns what to send so that the requirements are met with what the device already has.

    Of the configurations within the bounds (max_bytes, deadline_s, max_macs, max_memory_bytes), the
    one of least expected error (with confidence: of least upper bound of it); with max_error, the
    one of fewest bytes to transfer that reaches it. Among equals the other of the two decides, then
    the smaller configuration. The bounds always hold: what cannot be sent within them is not sent.
    A configuration that is held complete costs no bytes, so that a plan is never worse than what is
    held and within max_macs and max_memory_bytes.

    Where requirements conflict, `unmet` names them. If max_error is out of reach the plan is the
    least error within the bounds; if a bound excludes even the smallest configuration, there is
    nothing to send and `configuration` is None.

    Args:
      manifest: of the model.
      requirements: of the device.
      held: digests of the segments that the device has; others than this model's are ignored.
      begun: digests of segments of which a part is there, and the bytes of it: these need not come
        again. They are in `Plan.missing` whole.
    """
    sets = manifest.sets
    left = sets.missing(held)
    to_come = left * sets.sizes
    for sha256, received_bytes in (begun or {}).items():
        i = sets.index.get(sha256)
        if i is not None and left[i]:
            to_come[i] = max(0.0, to_come[i] - received_bytes)
    # One entry a configuration, each sum exact: `Sets`.
    transfer = sets.needed @ to_come
    errors = _errors(manifest, requirements.confidence)
    candidates = np.arange(len(errors))
    unmet: dict[str, str] = {}
    for name in _BOUNDS:
        bound = getattr(requirements, name)
        if bound is None:
            continue
        costs = _costs(name, manifest, transfer, requirements)[candidates]
        # No cost but an endless time is beyond 2^63, and NumPy takes no integer of any size.
        within = candidates[costs <= min(bound, 2**63)]
        if len(within):
            candidates = within
        else:
            least = candidates[costs.argmin()]
            unmet[name] = _broken_bound(
                name,
                bound,
                manifest.ladder[least].name,
                float(costs.min()),
                (int(transfer[least]), requirements.throughput_bps or 0),
            )
    if unmet:
        return Plan(
            configuration=None,
            missing=(),
            transfer_bytes=0,
            expected_error=None,
            error_bound=None,
            expected_seconds=_seconds(0, requirements),
            unmet=tuple(unmet),
            reasons=tuple(unmet.values()),
        )
    best = _least(candidates, errors, transfer)
    max_error = requirements.max_error
    if max_error is not None and errors[best] > max_error:
        unmet["max_error"] = _broken_error(manifest, requirements, max_error, best)
    elif max_error is not None:
        best = _least(candidates[errors[candidates] <= max_error], transfer, errors)
    needed = np.flatnonzero((sets.needed[best] * left) > 0)
    transfer_bytes = int(transfer[best])
    return Plan(
        configuration=manifest.ladder[best].name,
        missing=tuple([sets.segments[i] for i in needed.tolist()]),
        transfer_bytes=transfer_bytes,
        expected_error=manifest.table.rows[best].top1_error,
        error_bound=None if requirements.confidence is None else float(errors[best]),
        expected_seconds=_seconds(transfer_bytes, requirements),
        unmet=tuple(unmet),
        reasons=tuple(unmet.values()),
    )


def _least(candidates: np.ndarray, first: np.ndarray, second: np.ndarray) -> int:
    """The candidate with the least of the first; of equals, of the second; then the smallest."""
    values = first[candidates]
    equal = candidates[values == values.min()]
    return int(equal[second[equal].argmin()])


def _errors(manifest: Manifest, confidence: float | None) -> np.ndarray:
    """Of each configuration, what to plan by."""
    if confidence is None:
        return manifest.sets.errors
    return np.array(manifest.table.upper_bounds(confidence))


def _costs(
    name: str, manifest: Manifest, transfer: np.ndarray, requirements: Requirements
) -> np.ndarray:
    """What each configuration takes of what a requirement bounds."""
    if name == "max_macs":
        return manifest.sets.macs
    if name == "max_memory_bytes":
        return manifest.sets.memory_bytes
    if name == "max_bytes":
        return transfer
    bps = requirements.throughput_bps or 0.0
    if not bps:
        return np.where(transfer > 0, math.inf, 0.0)
    with np.errstate(over="ignore"):  # a link may be that slow
        return transfer * 8 / bps


def _transfer_s(transfer_bytes: int, throughput_bps: float) -> float:
    if transfer_bytes == 0:
        return 0.0
    return transfer_bytes * 8 / throughput_bps if throughput_bps else math.inf


def _seconds(transfer_bytes: int, requirements: Requirements) -> float | None:
    if requirements.throughput_bps is None:
        return None
    seconds = _transfer_s(transfer_bytes, requirements.throughput_bps)
    return seconds if math.isfinite(seconds) else None


def _broken_bound(name: str, bound: float, least: str, cost: float, over: tuple[int, float]) -> str:
    transfer_bytes, throughput_bps = over
    needs = {
        "max_macs": f"{cost:.0f} multiply-accumulates an image",
        "max_memory_bytes": f"{cost:.0f} bytes of unpacked tensors",
        "max_bytes": f"{cost:.0f} more bytes",
        "deadline_s": f"{cost:.6g} s for {transfer_bytes} bytes at {throughput_bps:.10g} bit/s",
    }[name]
    return f"{name}={bound} is too low for any configuration: {least} needs {needs}"


def _broken_error(
    manifest: Manifest, requirements: Requirements, max_error: float, best: int
) -> str:
    reason = f"max_error={max_error} is not reached: "
    bounds = [name for name in _BOUNDS if getattr(requirements, name) is not None]
    confidence = requirements.confidence
    has = "has an error of " if confidence is None else "has with confidence an error of at most "
    errors = _errors(manifest, confidence)
    least = float(errors.min())
    name = manifest.ladder[int(errors.argmin())].name
    if least > max_error:
        return f"{reason}the best configuration of the model, {name}, {has}{least:.6g}"
    return (
        f"{reason}the best within {' and '.join(bounds)}, {manifest.ladder[best].name}, {has}"
        f"{errors[best]:.6g}; "
        f"{name} would have {least:.6g}"
    )
