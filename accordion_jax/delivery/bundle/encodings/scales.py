"""Scales of quantised channels: of all that a byte can name, the one with the least squared error.

A scale is ``unit * 2 ** (-code / 16)``: one float32 unit a tensor and one byte a channel, which is
half of what a float16 scale takes. Sixteen steps an octave are fine enough: the mean square error
of a ResNet-20's kernels is at most 0.4 % above that with any scale at 2 and at 4 bits, and 4 % at 8
bits, where it is a ten-thousandth of what 4 bits cost.

Since there are few scales to choose from, the search tries them: that is exact, however many local
minima a channel has. NumPy only.
"""

import numpy as np

PER_OCTAVE = 16
# Codes that are tried, from the one whose scale clips no weight: half an octave above it, where a
# coarser scale can be better by chance, and four octaves below. Of normal weights in four levels
# the best scale is one and a half octaves below it, in more levels nearer.
_TRIED = range(-PER_OCTAVE // 2, 4 * PER_OCTAVE)
# 2 ** (-i / 16), rounded from float64 to float32: no last bit of a mathematics library shows.
_FRACTIONS = np.array([2.0 ** (-i / PER_OCTAVE) for i in range(PER_OCTAVE)], np.float32)
_CODES = np.arange(256)
# Of each code: the fraction and the octaves, so that a channel's are two looks.
_FRACTION_OF = _FRACTIONS[_CODES % PER_OCTAVE]
_OCTAVES_OF = -(_CODES // PER_OCTAVE).astype(np.int32)


def scales_of(unit: np.float32, codes: np.ndarray) -> np.ndarray:
    """Returns the scales that a unit and codes name: ``unit * 2 ** (-code / 16)``.

    Args:
      unit: of the tensor, not negative.
      codes: [channels] uint8.

    Returns:
      [channels] float32; the same on every machine, since each step of it is exact or rounded as
      IEEE 754 says.
    """
    return np.ldexp(_FRACTION_OF[codes] * np.float32(unit), _OCTAVES_OF[codes])


def quantise(weights: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    """Returns the index of the level that is nearest to each weight.

    Level i of n stands for ``(i - (n - 1) / 2) * scale``: they lie about zero, and an odd number of
    them has zero among them.

    Args:
      weights: [rows, channels] float32.
      scales: [channels] float32.
      levels: n.

    Returns:
      [rows, channels] uint8.
    """
    with np.errstate(over="ignore"):  # a weight that is that far off is clipped
        positions = weights / np.where(scales > 0, scales, np.float32(1))
    positions += np.float32((levels - 1) / 2)
    return np.clip(np.rint(positions, out=positions), 0, levels - 1).astype(np.uint8)


def dequantise(indices: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    """Returns what levels stand for; see `quantise`.

    Args:
      indices: [rows, channels] uint8.
      scales: [channels] float32.
      levels: how many there are.

    Returns:
      [rows, channels] float32.
    """
    weights = indices.astype(np.float32)
    weights -= np.float32((levels - 1) / 2)
    weights *= scales
    return weights


def choose_scales(
    weights: np.ndarray,
    levels: int,
    *,
    quantised: np.ndarray | None = None,
    importance: np.ndarray | None = None,
) -> tuple[np.float32, np.ndarray]:
    """Returns the unit and the codes of the scales with the least squared error a channel.

    Args:
      weights: [rows, channels] float32, finite.
      levels: of the quantisation.
      quantised: [rows, channels] float32, what is quantised in place of the weights: their values
        in more bits, where these levels are to be a function of those. The error is still that
        against the weights.
      importance: [rows, 1] or [rows, channels], not negative: what a squared error counts, for
        instance the mean square of the inputs that a row multiplies. None counts all alike.
    """
    source = weights if quantised is None else quantised
    channels = weights.shape[1]
    if not weights.size:
        return np.float32(0), np.zeros(channels, np.uint8)
    half = (levels - 1) / 2
    largest = np.abs(source).max(axis=0).astype(np.float64)
    # At this scale no weight is clipped. It is rounded down, so that no level is infinite.
    unit = np.float32(min(largest.max() / half, float(np.finfo(np.float32).max)))
    unit = np.nextafter(unit, np.float32(0))
    table = scales_of(unit, _CODES)
    # The first code of a channel is the last that clips none of its weights.
    first = np.searchsorted(-table * half, -largest, side="right").clip(1, 256) - 1
    least = np.full(channels, np.inf)
    codes = np.zeros(channels, np.uint8)
    for step in _TRIED:
        tried = np.clip(first + step, 0, 255)
        errors = dequantise(quantise(source, table[tried], levels), table[tried], levels)
        errors -= weights
        squares = np.square(errors, dtype=np.float64)  # in float32 they could overflow
        if importance is not None:
            squares *= importance
        total = squares.sum(axis=0)
        better = total < least
        least[better], codes[better] = total[better], tried[better]
    return unit, codes
