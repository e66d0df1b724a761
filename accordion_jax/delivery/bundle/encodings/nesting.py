"""Integers of more bits within the levels of those that are there already.

`Integer.encode` makes few bits of many. Where the few are out, and what is to come after them was
trained later, it goes the other way: the many bits have to round to the few. Of each channel's
scales the one is taken with the least squared error among the levels that its few bits leave.
NumPy only.
"""

import numpy as np

from accordion_jax.delivery.bundle.encodings.integers import LEVELS, Quantised, matrix_shape
from accordion_jax.delivery.bundle.encodings.scales import (
    PER_OCTAVE,
    dequantise,
    quantise,
    scales_of,
)
from accordion_jax.delivery.errors import BundleError


def nested(array: np.ndarray, coarse: Quantised, bits: int) -> Quantised:
    """Returns a tensor in more bits that a refinement makes of what is there.

    Args:
      array: float32, finite, of the shape of `coarse`. What is outside of the values that round to
        a weight's level is brought to the nearest level that is not.
      coarse: what is there.
      bits: more than it has, up to 8.

    Raises:
      BundleError: there are not more bits.
    """
    if bits not in LEVELS or bits <= coarse.bits:
        raise BundleError(f"{bits} bits do not refine {coarse.bits}; wanted more, up to 8")
    weights = np.ascontiguousarray(array, np.float32).reshape(matrix_shape(coarse.shape))
    channels = weights.shape[1]
    least = np.full(channels, np.inf)
    codes = np.zeros(channels, np.uint8)
    indices = np.zeros(weights.shape, np.uint8)
    # From the scale of the few bits, whose levels have one of the many each, to one whose levels do
    # not reach as far as theirs.
    for step in range(PER_OCTAVE * (bits - coarse.bits + 1) + 1):
        tried = np.clip(coarse.codes.astype(int) + step, 0, 255).astype(np.uint8)
        found, off = _levels(weights, coarse, scales_of(coarse.unit, tried), LEVELS[bits])
        better = off < least
        least[better], codes[better] = off[better], tried[better]
        indices[:, better] = found[:, better]
    return Quantised(coarse.shape, bits, coarse.unit, codes, indices)


def _levels(
    weights: np.ndarray, coarse: Quantised, scales: np.ndarray, levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest level of each weight that its coarse one leaves, at some scales.

    Returns:
      [rows, channels] uint8; and [channels] float64, the squared error: infinite where a coarse
      level leaves none.
    """
    channels = len(scales)
    every = np.broadcast_to(np.arange(levels, dtype=np.uint8)[:, None], (levels, channels))
    nearest = quantise(dequantise(every, scales, levels), coarse.scales, coarse.levels)
    cells = nearest * np.intp(channels) + np.arange(channels)
    count = np.bincount(cells.reshape(-1), minlength=coarse.levels * channels)
    count = count.reshape(coarse.levels, channels)
    ends = count.cumsum(axis=0)
    least, most = (
        np.take_along_axis(each, coarse.indices.astype(np.intp), axis=0)
        for each in (ends - count, ends - 1)
    )
    found = np.clip(quantise(weights, scales, levels), least, np.maximum(least, most))
    found = np.minimum(found, levels - 1).astype(np.uint8)
    off = np.square(dequantise(found, scales, levels) - weights, dtype=np.float64).sum(axis=0)
    return found, np.where((most < least).any(axis=0), np.inf, off)
