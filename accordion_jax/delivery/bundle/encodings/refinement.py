"""The bits that take integers from some levels to more: what is left to say of each weight.

The coarse level is a function of the fine one (`integers.quantise_tensor` with `finer`): it is the
level nearest to the fine tensor's value. So a coarse level and a channel leave an *interval* of
fine levels, about ``fine / coarse`` of them, and a refinement says which one of it. Where the
scales of both are those that are best for their number of bits, intervals differ in width by one
within a channel, and are longer at the ends, where the coarse levels clip. A weight whose interval
has one level needs nothing; the others are sorted by width, and each width has a stream of its
own, in which all symbols are about equally likely. Bits of both together are then as good as those
of the fine levels alone. Both tensors' scales are their own: neither makes way for the other's.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from accordion_jax.delivery.bundle.encodings.integers import Quantised
from accordion_jax.delivery.bundle.encodings.scales import dequantise, quantise
from accordion_jax.delivery.bundle.encodings.symbols import compress, decompress
from accordion_jax.delivery.errors import BundleError

# Widths up to this have a stream each; wider intervals share one up to each of the next.
_EXACT = 16
_BOUNDS = np.array([*range(_EXACT + 1), 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256])
# Entries of a table of intervals at a time: it has up to 255 a channel, and a tensor may have a
# million channels of one weight.
_TABLE = 1 << 16


def residuals(coarse: Quantised, fine: Quantised) -> tuple[np.ndarray, np.ndarray]:
    """Returns where in its interval each weight's fine level lies, and how wide that is.

    Counted from the end that is nearer to zero: far from zero, smaller weights are likelier.

    Returns:
      Two arrays of [rows * channels] uint8: the residuals, and the widths that bound them.
    """
    first, width = intervals(coarse, fine)
    residual = fine.indices - first
    return _turned(coarse, residual, width).reshape(-1), width.reshape(-1)


def refined(
    coarse: Quantised, fine: Quantised, residual: np.ndarray, first: np.ndarray, width: np.ndarray
) -> Quantised:
    """Returns the fine tensor.

    Args:
      coarse: what is held.
      fine: what is wanted, without its indices.
      residual: [rows * channels] uint8, each below the width of its interval.
      first: of the intervals; see `intervals`.
      width: likewise.
    """
    turned = _turned(coarse, residual.reshape(first.shape), width)
    return dataclasses.replace(fine, indices=first + turned)


def intervals(coarse: Quantised, fine: Quantised) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first fine level of each weight's interval, and how many levels that has.

    Args:
      coarse: what is held.
      fine: unit, codes and bits of what is wanted; its indices are not looked at.

    Returns:
      Two arrays of [rows, channels] uint8.

    Raises:
      BundleError: an interval is empty: no fine tensor has this coarse one.
    """
    first = np.empty_like(coarse.indices)
    width = np.empty_like(coarse.indices)
    every = np.arange(fine.levels, dtype=np.uint8)[:, None]
    coarse_scales, fine_scales = coarse.scales, fine.scales
    step = max(1, _TABLE // fine.levels)
    for start in range(0, coarse.indices.shape[1], step):
        some = slice(start, start + step)
        scales = fine_scales[some]
        values = dequantise(np.broadcast_to(every, (fine.levels, len(scales))), scales, fine.levels)
        nearest = quantise(values, coarse_scales[some], coarse.levels)
        # How many fine levels each coarse one has, a channel: [coarse.levels, channels].
        flat = nearest * np.int32(len(scales)) + np.arange(len(scales), dtype=np.int32)
        count = np.bincount(flat.reshape(-1), minlength=coarse.levels * len(scales))
        count = count.reshape(coarse.levels, len(scales))
        before = count.cumsum(axis=0) - count
        at = coarse.indices[:, some], np.arange(len(scales))
        first[:, some] = before.astype(np.uint8)[at]
        width[:, some] = count.astype(np.uint8)[at]
    if width.size and not width.all():
        raise BundleError("it does not refine what it names: no finer tensor has these levels")
    return first, width


def _turned(coarse: Quantised, residual: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Counts residuals below zero from the other end; its own inverse."""
    below = 2 * coarse.indices.astype(np.int16) < coarse.levels - 1
    return np.where(below, width - 1 - residual, residual)


def write_residuals(residual: np.ndarray, width: np.ndarray) -> Iterator[bytes]:
    """Yields the streams of a segment's residuals.

    Args:
      residual: [n] uint8.
      width: [n] uint8, larger than the residual.
    """
    for chosen, alphabet in _by_width(width):
        yield compress(residual[chosen], alphabet)


def read_residuals(stream: bytes, width: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Returns residuals, and what follows their streams.

    Args:
      stream: begins with what `write_residuals` yielded.
      width: [n] uint8.

    Raises:
      BundleError: as `decompress`, or a residual is outside its interval.
    """
    residual = np.zeros(len(width), np.uint8)
    for chosen, alphabet in _by_width(width):
        residual[chosen], stream = decompress(stream, len(chosen), alphabet)
    if (residual >= width).any():
        raise BundleError("its residuals leave their intervals; fetch it again")
    return residual, stream


def _by_width(width: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (indices of weights, size of their alphabet), narrow intervals first."""
    kinds = np.searchsorted(_BOUNDS, np.arange(256)).astype(np.uint8)[width]
    # One stable sort of bytes, which NumPy does by counting, in place of a search a kind.
    order = np.argsort(kinds, kind="stable")
    ends = np.bincount(kinds, minlength=len(_BOUNDS)).cumsum()
    for kind in range(2, len(_BOUNDS)):
        if ends[kind] > ends[kind - 1]:
            yield order[ends[kind - 1] : ends[kind]], int(_BOUNDS[kind])
