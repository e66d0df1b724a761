"""Whether the parts of a manifest fit together, in time linear in its size."""

import collections
import itertools
from collections.abc import Sequence

from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.errors import ManifestError
from accordion_jax.system.text import short

# A file of a few bytes may stand for many zeros. All tensors together are at most so many times
# what is sent of them, beside what is little for any machine.
_MOST_SWELLING = 1024
_LITTLE_BYTES = 64 << 20


def check_segments(segments: Sequence[Segment], source: str) -> None:
    """Does nothing where the segments of a manifest fit together.

    Args:
      segments: in sending order; each is valid by itself.
      source: what to call it in errors.

    Raises:
      ManifestError: two have one name, a refinement adds no bits or adds them to a safetensors
        file, or sizes contradict each other; names them.
    """
    _check_unique([segment.name for segment in segments], "segments", source)
    by_name = {segment.name: segment for segment in segments}
    sizes = {segment.sha256: segment.size_bytes for segment in segments}
    for segment in segments:
        if segment.refines is not None:
            _check_refinement(by_name[segment.refines], segment, source)
        elif segment.layout is None and segment.tensor_bytes > segment.size_bytes:
            raise ManifestError(
                f"{source}: segment {segment.name!r} has arrays of {segment.tensor_bytes} bytes, "
                f"more than its file's size_bytes={segment.size_bytes}"
            )
        if segment.layout is not None and segment.bits is None:
            raise ManifestError(
                f"{source}: segment {segment.name!r} has a layout and no bits; wanted 1 to 8, 16 "
                "or 32"
            )
        if sizes[segment.sha256] != segment.size_bytes:
            raise ManifestError(
                f"{source}: two segments have sha256={segment.sha256} but {segment.size_bytes} and "
                f"{sizes[segment.sha256]} bytes"
            )
    unpacked = sum(segment.tensor_bytes for segment in segments if segment.refines is None)
    most = _LITTLE_BYTES + _MOST_SWELLING * sum(sizes.values())
    if unpacked > most:
        raise ManifestError(
            f"{source}: {sum(sizes.values())} bytes are said to unpack to {unpacked}; wanted at "
            f"most {most}"
        )


def _check_refinement(before: Segment, segment: Segment, source: str) -> None:
    if segment.layout is None:
        raise ManifestError(
            f"{source}: segment {segment.name!r} refines a safetensors file; wanted one with a "
            "layout"
        )
    if before.bits is None or segment.bits is None or segment.bits <= before.bits:
        raise ManifestError(
            f"{source}: segment {segment.name!r} leads from {before.bits} to {segment.bits} bits; "
            "wanted more than before"
        )


def check_ladder(segments: Sequence[Segment], ladder: Sequence[Configuration], source: str) -> None:
    """Does nothing where the configurations of a manifest make a ladder.

    Args:
      segments: in sending order; they fit together.
      ladder: smallest first; each is valid by itself, and made of these segments.
      source: what to call it in errors.

    Raises:
      ManifestError: two have one name, one lacks the base, or what a refinement refines, the last
        lacks a segment that is no statistics, or the default path is none; names them.
    """
    _check_unique([configuration.name for configuration in ladder], "ladder", source)
    order = tuple(segment.name for segment in segments)
    refines = {segment.name: segment.refines for segment in segments}
    path: list[Configuration] = []
    for configuration in ladder:
        needed = set(configuration.segments)
        if order[0] not in needed:
            raise ManifestError(
                f"{source}: configuration {configuration.name!r} lacks the first segment, "
                f"{order[0]!r}; wanted it in each"
            )
        for name in configuration.segments:
            before = refines[name]
            if before is not None and before not in needed:
                raise ManifestError(
                    f"{source}: configuration {configuration.name!r} has {name!r} without "
                    f"{before!r}, which that refines"
                )
        if configuration.segments == order[: len(configuration.segments)]:
            path.append(configuration)
    for small, large in itertools.pairwise(path):
        if len(small.segments) >= len(large.segments):
            raise ManifestError(
                f"{source}: configuration {large.name!r} must need more segments than "
                f"{small.name!r}; they need {len(large.segments)} and {len(small.segments)}"
            )
        if any(now and not was for was, now in zip(small.skip_mask, large.skip_mask, strict=True)):
            raise ManifestError(
                f"{source}: the skip mask of {large.name!r} must keep all that {small.name!r} keeps"
            )
    full = ladder[-1]
    statistics = {segment.name for segment in segments if segment.is_statistics}
    rest = [name for name in order if name not in {*full.segments, *statistics}]
    if rest:
        raise ManifestError(
            f"{source}: the last configuration, {full.name!r}, lacks segments {short(rest)}; it "
            f"must need all {len(order) - len(statistics)}"
        )


def _check_unique(names: Sequence[str], what: str, source: str) -> None:
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise ManifestError(f"{source}: {what} has two entries named {repeated[0]!r}")
