"""Which segments each configuration needs, as arrays: what a plan is computed with."""

import dataclasses
import functools
from collections.abc import Collection, Sequence

import numpy as np

from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.depth import LookupTable

# Sums of sizes are computed in float64, which is exact up to here.
MAX_TOTAL_BYTES = 2**53 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """The configurations of a manifest as sets; arrays are read alone.

    Attributes:
      segments: each content once, in sending order.
      sizes: [segments] float64, their wire bytes.
      needed: [configurations, segments] float64, 1 where a configuration needs a segment.
      macs: [configurations] float64, for one example.
      memory_bytes: [configurations] float64, of the tensors that it needs, unpacked.
      errors: [configurations] float64, as measured.
      ranking: indices of configurations, the best first: by error, then by operations.
    """

    segments: tuple[Segment, ...]
    sizes: np.ndarray
    needed: np.ndarray
    macs: np.ndarray
    memory_bytes: np.ndarray
    errors: np.ndarray
    ranking: tuple[int, ...]

    @classmethod
    def of(
        cls, segments: Sequence[Segment], ladder: Sequence[Configuration], table: LookupTable
    ) -> "Sets":
        """Returns the sets of a manifest's parts, which fit together."""
        members = membership(segments, ladder)
        contents, sizes = once_each(segments)
        macs = np.array([row.macs for row in table.rows], np.float64)
        errors = np.array([row.top1_error for row in table.rows])
        held = np.array([0 if s.refines else s.tensor_bytes for s in segments], np.float64)
        return cls(
            contents,
            sizes,
            contents_needed(segments, members).astype(np.float64),
            macs,
            members @ held,
            errors,
            tuple(np.lexsort((macs, errors)).tolist()),
        )

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """Digest -> index of the segment."""
        return {segment.sha256: i for i, segment in enumerate(self.segments)}

    def missing(self, held: Collection[str]) -> np.ndarray:
        """Returns [segments] float64, 1 where a segment is not held; the caller's own."""
        left = np.ones(len(self.segments))
        found = [i for sha256 in held if (i := self.index.get(sha256)) is not None]
        left[found] = 0
        return left

    def complete(self, held: Collection[str]) -> list[int]:
        """Returns the configurations of which all is held, the best first."""
        whole = (self.needed @ self.missing(held) == 0).tolist()
        return [i for i in self.ranking if whole[i]]


def membership(segments: Sequence[Segment], ladder: Sequence[Configuration]) -> np.ndarray:
    """Returns [configurations, segments] bool: whether it needs it."""
    place = {segment.name: i for i, segment in enumerate(segments)}
    members = np.zeros((len(ladder), len(segments)), np.bool_)
    for row, configuration in zip(members, ladder, strict=True):
        row[[place[name] for name in configuration.segments]] = True
    return members


def once_each(segments: Sequence[Segment]) -> tuple[tuple[Segment, ...], np.ndarray]:
    """Returns segments of different contents in sending order, and [n] float64, their bytes."""
    first: dict[str, Segment] = {}
    for segment in segments:
        first.setdefault(segment.sha256, segment)
    contents = tuple(first.values())
    return contents, np.array([segment.size_bytes for segment in contents], np.float64)


def contents_needed(segments: Sequence[Segment], members: np.ndarray) -> np.ndarray:
    """Returns [configurations, contents] bool, of the contents that `once_each` returns."""
    first: dict[str, int] = {}
    of = [first.setdefault(segment.sha256, len(first)) for segment in segments]
    if len(first) == len(segments):
        return members
    needed = np.zeros((len(members), len(first)), np.bool_)
    for i, content in enumerate(of):
        needed[:, content] |= members[:, i]
    return needed
