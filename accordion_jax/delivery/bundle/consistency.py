"""Whether the parts of a manifest fit together, in time linear in its size."""

import collections
import itertools
from collections.abc import Sequence

from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.errors import ManifestError
from accordion_jax.depth import LookupTable
from accordion_jax.system.text import short


def check_references(
    segments: Sequence[Segment],
    ladder: Sequence[Configuration],
    table: LookupTable,
    source: str,
) -> None:
    """Does nothing where the parts of a manifest fit together.

    Args:
      segments: in sending order; each is valid by itself.
      ladder: smallest first; likewise.
      table: likewise.
      source: what to call it in errors.

    Raises:
      ManifestError: two parts have one name, one names another that is not there or not before it,
        sizes contradict each other, or the ladder is no ladder; names them.
    """
    order = [segment.name for segment in segments]
    _check_unique(order, "segments", source)
    _check_unique([configuration.name for configuration in ladder], "ladder", source)
    earlier: set[str] = set()
    for segment in segments:
        late = [name for name in segment.depends_on if name not in earlier]
        earlier.add(segment.name)
        if late:
            raise ManifestError(
                f"{source}: segment {segment.name!r} depends on {late[0]!r}, which is not sent "
                f"before it; sending order: {short(order)}"
            )
        if segment.tensor_bytes > segment.size_bytes:
            raise ManifestError(
                f"{source}: segment {segment.name!r} has tensor_bytes={segment.tensor_bytes}, more "
                f"than its file's size_bytes={segment.size_bytes}"
            )
    sizes = {segment.sha256: segment.size_bytes for segment in segments}
    for segment in segments:
        if sizes[segment.sha256] != segment.size_bytes:
            raise ManifestError(
                f"{source}: two segments have sha256={segment.sha256} but {segment.size_bytes} and "
                f"{sizes[segment.sha256]} bytes"
            )
    _check_ladder(ladder, table, order, source)


def _check_ladder(
    ladder: Sequence[Configuration], table: LookupTable, order: list[str], source: str
) -> None:
    for configuration in ladder:
        count = len(configuration.segments)
        if list(configuration.segments) != order[:count]:
            raise ManifestError(
                f"{source}: configuration {configuration.name!r} needs "
                f"{short(configuration.segments)}; wanted the first {count} of the sending order, "
                f"{short(order[:count])}, so that every prefix of it is a model that runs"
            )
    for small, large in itertools.pairwise(ladder):
        if len(small.segments) >= len(large.segments):
            raise ManifestError(
                f"{source}: configuration {large.name!r} must need more segments than "
                f"{small.name!r}; they need {len(large.segments)} and {len(small.segments)}"
            )
        grown = len(small.skip_mask) == len(large.skip_mask) and all(
            was or not now for was, now in zip(small.skip_mask, large.skip_mask, strict=True)
        )
        if not grown:
            raise ManifestError(
                f"{source}: the skip mask of {large.name!r} must be as long as that of "
                f"{small.name!r}, and keep all that it keeps"
            )
    full = ladder[-1]
    if len(full.segments) != len(order):
        raise ManifestError(
            f"{source}: no configuration needs segment {order[len(full.segments)]!r}; the last, "
            f"{full.name!r}, must need all {len(order)}"
        )
    wanted = [configuration.name for configuration in ladder]
    found = [row.configuration for row in table.rows]
    if found != wanted:
        raise ManifestError(
            f"{source}: the look-up table has rows {short(found)}; wanted one a configuration of "
            f"the ladder, {short(wanted)}"
        )


def _check_unique(names: Sequence[str], what: str, source: str) -> None:
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise ManifestError(f"{source}: {what} has two entries named {repeated[0]!r}")
