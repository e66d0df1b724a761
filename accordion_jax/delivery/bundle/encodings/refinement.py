"""The bits that take integers from some levels to more: what is left to say of each weight.

The coarse level is a function of the fine one (`integers.quantise_tensor` with `finer`): it is the
level nearest to the fine tensor's value. So a coarse level and a channel leave an *interval* of
fine levels, about ``fine / coarse`` of them, and a refinement says which one of it. Where the
scales of both are those that are best for their number of bits, intervals differ in width by one
within a channel, and are longer at the ends, where the coarse levels clip. A weight whose interval
has one level needs nothing; the others are sorted by width, and each width has a stream of its
own, in which all symbols are about equally likely. In the interval about zero they are not, if
there are only three coarse levels, or if most weights are zero: there it has streams of its own,
in the second case where the segment says so. Bits of both together are then as good as those of
the fine levels alone. Both tensors' scales are their own: neither makes way for the other's.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from accordion_jax.delivery.bundle.encodings.integers import Quantised
from accordion_jax.delivery.bundle.encodings.scales import dequantise, quantise
from accordion_jax.delivery.bundle.encodings.symbols import compress, decompress
from accordion_jax.delivery.errors import BundleError

# Widths up to 16 have a stream each; wider intervals share one up to each of the next.
_BOUNDS = np.array([*range(17), 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256])
_KINDS = np.searchsorted(_BOUNDS, np.arange(256)).astype(np.uint8)
# Entries of a table of intervals at a time: it has up to 255 a channel, and a tensor may have a
# million channels of one weight.
_TABLE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Which fine levels each weight may have.

    Attributes:
      start: [rows, channels] uint8, the one that is nearest to zero; the first, of those about it.
      width: [rows, channels] uint8, how many there are.
      kind: [rows, channels] uint8, which stream says which one it is; see `_by_kind`.
      kinds: that there may be.
    """

    start: np.ndarray
    width: np.ndarray
    kind: np.ndarray
    kinds: frozenset[int]


def residuals(
    coarse: Quantised, fine: Quantised, zero_apart: bool = False
) -> tuple[np.ndarray, Intervals]:
    """Returns where in its interval each weight's fine level lies, [rows, channels] uint8.

    Counted from the end that is nearer to zero: far from zero, smaller weights are likelier.

    Args:
      coarse: made from the fine tensor.
      fine: tensor in more bits.
      zero_apart: as in `intervals`.

    Raises:
      BundleError: as `intervals`, or the coarse tensor was not made from the fine one.
    """
    found = intervals(coarse, fine, zero_apart)
    # Where the sign is -1, its last bits turn a number into its complement: -1 less than before.
    sign = _below_zero(coarse)
    residual = (fine.indices - found.start ^ sign) - sign
    if (residual >= found.width).any():
        raise BundleError("the coarse tensors were not encoded with finer= the fine ones")
    return residual, found


def refined(
    coarse: Quantised, fine: Quantised, residual: np.ndarray, found: Intervals
) -> Quantised:
    """Returns the fine tensor.

    Args:
      coarse: what is held.
      fine: what is wanted, without its indices.
      residual: [rows * channels] uint8.
      found: the intervals of both.

    Raises:
      BundleError: a residual is outside its interval.
    """
    residual = residual.reshape(found.width.shape)
    if (residual >= found.width).any():
        raise BundleError("its residuals leave their intervals; fetch it again")
    sign = _below_zero(coarse)
    return fine.with_indices((residual ^ sign) - sign + found.start)


def intervals(coarse: Quantised, fine: Quantised, zero_apart: bool = False) -> Intervals:
    """Returns which fine levels the coarse ones leave.

    Args:
      coarse: what is held.
      fine: unit, codes and bits of what is wanted; its indices are not looked at.
      zero_apart: whether intervals about zero have streams of their own.

    Raises:
      BundleError: an interval is empty: no fine tensor has this coarse one.
    """
    planes = np.empty((3, *coarse.indices.shape), np.uint8)
    kinds: set[int] = set()
    step = max(1, _TABLE // fine.levels)
    for first in range(0, coarse.indices.shape[1], step):
        some = slice(first, first + step)
        table = _table(coarse, fine, some, zero_apart)
        channels = np.arange(table.shape[1], dtype=np.uint16)
        # All three in one number, so that they are found by one look. The table is small enough for
        # its places to be numbers of 16 bits.
        places = coarse.indices[:, some] * np.uint16(len(channels)) + channels
        numbers = table.reshape(-1).take(places)
        for at, plane in enumerate(planes):
            plane[:, some] = numbers >> np.uint32(8 * at)
        kinds |= set(np.flatnonzero(np.bincount((table >> np.uint32(16)).reshape(-1))).tolist())
    start, width, kind = planes
    if not width.all():
        raise BundleError("it does not refine what it names: no finer tensor has these levels")
    return Intervals(start, width, kind, frozenset(kinds))


def _table(coarse: Quantised, fine: Quantised, some: slice, zero_apart: bool) -> np.ndarray:
    """Returns start, width and kind of each coarse level's interval, in the bytes of a number.

    Returns:
      [coarse.levels, channels] uint32, of some of the channels.
    """
    fine_scales = fine.scales[some]
    every = np.arange(fine.levels, dtype=np.uint8)[:, None]
    every = np.broadcast_to(every, (fine.levels, len(fine_scales)))
    values = dequantise(every, fine_scales, fine.levels)
    nearest = quantise(values, coarse.scales[some], coarse.levels)
    # How many fine levels each coarse one has, a channel.
    cells = nearest * np.intp(len(fine_scales)) + np.arange(len(fine_scales))
    count = np.bincount(cells.reshape(-1), minlength=coarse.levels * len(fine_scales))
    count = count.reshape(coarse.levels, len(fine_scales))
    ends = count.cumsum(axis=0)
    nearest_to_zero = ends - count
    nearest_to_zero[: coarse.levels // 2] = ends[: coarse.levels // 2] - 1
    kind = _KINDS[count].astype(np.uint32)
    if coarse.levels == 3 or (zero_apart and coarse.levels % 2):
        kind[coarse.levels // 2] += np.uint32(len(_BOUNDS))
    return kind << 16 | count.astype(np.uint32) << 8 | (nearest_to_zero & 255).astype(np.uint32)


def _below_zero(coarse: Quantised) -> np.ndarray:
    """-1 where a weight's coarse level is below zero, so that its interval is counted downwards.

    Returns:
      [rows, channels] uint8, of which -1 is 255; elsewhere 0.
    """
    return -(coarse.indices < coarse.levels // 2).view(np.uint8)


def write_residuals(residual: np.ndarray, found: Sequence[Intervals]) -> Iterator[bytes]:
    """Yields the streams of a segment's residuals.

    Args:
      residual: [n] uint8, of all tensors.
      found: their intervals.
    """
    for chosen, alphabet in _by_kind(found):
        yield compress(residual[chosen], alphabet)


def read_residuals(stream: bytes, found: Sequence[Intervals]) -> tuple[np.ndarray, bytes]:
    """Returns residuals of all tensors, [n] uint8, and what follows their streams.

    Args:
      stream: begins with what `write_residuals` yielded.
      found: the tensors' intervals.

    Raises:
      BundleError: as `decompress`.
    """
    residual = np.zeros(sum(each.kind.size for each in found), np.uint8)
    for chosen, alphabet in _by_kind(found):
        residual[chosen], stream = decompress(stream, len(chosen), alphabet)
    return residual, stream


def _by_kind(found: Sequence[Intervals]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (indices of weights, size of their alphabet), a stream each."""
    kind = np.concatenate([each.kind.reshape(-1) for each in found])
    for each in sorted(frozenset().union(*(intervals.kinds for intervals in found))):
        alphabet = int(_BOUNDS[each % len(_BOUNDS)])
        # A search a kind: there are a dozen of them, and NumPy's stable sort of bytes, with which
        # one pass would do, takes as long as 25 searches.
        if alphabet > 1 and len(chosen := np.flatnonzero(kind == each)):
            yield chosen, alphabet
