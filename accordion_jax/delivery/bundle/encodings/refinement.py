"""The bits that take integers from some levels to more: what is left to say of each weight.

The coarse level is a function of the fine one (`integers.quantise_tensor` with `finer`): it is the
level nearest to the fine tensor's value. So a coarse level and a channel leave an *interval* of
fine levels, about ``fine / coarse`` of them, and a refinement says which one of it. Where the
scales of both are those that are best for their number of bits, intervals differ in width by one
within a channel, and are longer at the ends, where the coarse levels clip. A weight whose interval
has one level needs nothing; the others are sorted by width, and each width has a stream of its
own, in which all symbols are about equally likely. Where there are only three coarse levels, the
wide interval about zero, in which they are not, has streams of its own. Bits of both together are
then as good as those of the fine levels alone. Both tensors' scales are their own: neither makes
way for the other's.
"""

import dataclasses
from collections.abc import Iterator

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
    """

    start: np.ndarray
    width: np.ndarray
    kind: np.ndarray


def residuals(coarse: Quantised, fine: Quantised) -> tuple[np.ndarray, Intervals]:
    """Returns where in its interval each weight's fine level lies, [rows, channels] uint8.

    Counted from the end that is nearer to zero: far from zero, smaller weights are likelier.

    Raises:
      BundleError: as `intervals`, or the coarse tensor was not made from the fine one.
    """
    found = intervals(coarse, fine)
    below = _below_zero(coarse)
    residual = np.where(below, found.start - fine.indices, fine.indices - found.start)
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
    indices = np.where(_below_zero(coarse), found.start - residual, found.start + residual)
    return dataclasses.replace(fine, indices=indices)


def intervals(coarse: Quantised, fine: Quantised) -> Intervals:
    """Returns which fine levels the coarse ones leave.

    Args:
      coarse: what is held.
      fine: unit, codes and bits of what is wanted; its indices are not looked at.

    Raises:
      BundleError: an interval is empty: no fine tensor has this coarse one.
    """
    start = np.empty_like(coarse.indices)
    width = np.empty_like(coarse.indices)
    every = np.arange(fine.levels, dtype=np.uint8)[:, None]
    coarse_scales, fine_scales = coarse.scales, fine.scales
    step = max(1, _TABLE // fine.levels)
    for first in range(0, coarse.indices.shape[1], step):
        some = slice(first, first + step)
        channels = np.arange(len(fine_scales[some]), dtype=np.int32)
        values = dequantise(
            np.broadcast_to(every, (fine.levels, len(channels))), fine_scales[some], fine.levels
        )
        nearest = quantise(values, coarse_scales[some], coarse.levels)
        # How many fine levels each coarse one has, a channel: [coarse.levels, channels].
        flat = nearest * np.int32(len(channels)) + channels
        count = np.bincount(flat.reshape(-1), minlength=coarse.levels * len(channels))
        count = count.reshape(coarse.levels, len(channels))
        ends = count.cumsum(axis=0)
        nearest_to_zero = ends - count
        nearest_to_zero[: coarse.levels // 2] = ends[: coarse.levels // 2] - 1
        # Both in one number, so that both are found by one look.
        table = (256 * nearest_to_zero + count).astype("<u2").reshape(-1)
        both = table[coarse.indices[:, some] * np.int32(len(channels)) + channels]
        start[:, some], width[:, some] = both >> 8, both & 255
    if width.size and not width.all():
        raise BundleError("it does not refine what it names: no finer tensor has these levels")
    kind = _KINDS[width]
    if coarse.levels == 3:
        kind[coarse.indices == 1] += len(_BOUNDS)
    return Intervals(start, width, kind)


def _below_zero(coarse: Quantised) -> np.ndarray:
    """Whether each weight's coarse level is below zero: its interval is counted downwards."""
    return coarse.indices < coarse.levels // 2


def write_residuals(residual: np.ndarray, kind: np.ndarray) -> Iterator[bytes]:
    """Yields the streams of a segment's residuals.

    Args:
      residual: [n] uint8.
      kind: [n] uint8, of its interval.
    """
    for chosen, alphabet in _by_kind(kind):
        yield compress(residual[chosen], alphabet)


def read_residuals(stream: bytes, kind: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Returns residuals, [n] uint8, and what follows their streams.

    Args:
      stream: begins with what `write_residuals` yielded.
      kind: [n] uint8, of the intervals.

    Raises:
      BundleError: as `decompress`.
    """
    residual = np.zeros(len(kind), np.uint8)
    for chosen, alphabet in _by_kind(kind):
        residual[chosen], stream = decompress(stream, len(chosen), alphabet)
    return residual, stream


def _by_kind(kind: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (indices of weights, size of their alphabet), a stream each."""
    # One stable sort of bytes, which NumPy does by counting, in place of a search a kind.
    order = np.argsort(kind, kind="stable")
    ends = np.bincount(kind, minlength=2 * len(_BOUNDS)).cumsum()
    for each in range(2 * len(_BOUNDS)):
        alphabet = int(_BOUNDS[each % len(_BOUNDS)])
        chosen = order[ends[each - 1] if each else 0 : ends[each]]
        if alphabet > 1 and len(chosen):
            yield chosen, alphabet
