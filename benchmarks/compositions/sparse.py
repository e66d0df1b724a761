"""The bytes of pruned kernels: where their weights are, and what they are in few bits.

::

    bits | way | per kernel: unit (float32), a code a channel | counts | places | levels

Places are either a bit a weight, or the numbers of zeros between weights (255 stands for that many
zeros with no weight after them); levels are those of the encodings of integers, zero apart. Both
streams are coded as segments code theirs (Huffman, by deflate), and the way that takes fewer bytes
is the one that is sent. Names and shapes are the receiver's, as for segments.
"""

import math
import struct
from collections.abc import Mapping

import numpy as np

from accordion_jax.delivery.bundle.encodings.integers import LEVELS, matrix_shape
from accordion_jax.delivery.bundle.encodings.scales import (
    choose_scales,
    dequantise,
    quantise,
    scales_of,
)
from accordion_jax.delivery.bundle.encodings.symbols import compress, decompress

_GAPS, _BITMASK = 0, 1
_LONGEST = 255
_COUNTS = struct.Struct("<II")

Shape = tuple[int, ...]


def write_sparse(kernels: Mapping[str, np.ndarray], bits: int) -> bytes:
    """Returns the bytes of kernels, most of whose weights are zero; `read_sparse` is the inverse.

    Args:
      kernels: name -> [..., channels] float32.
      bits: a weight that is not zero, 2 to 8.
    """
    levels, heads, all_indices = LEVELS[bits], [], []
    for kernel in kernels.values():
        matrix = np.ascontiguousarray(kernel, np.float32).reshape(matrix_shape(kernel.shape))
        unit, codes = choose_scales(matrix, levels)
        heads.append(np.float32(unit).astype("<f4").tobytes() + codes.tobytes())
        all_indices.append(quantise(matrix, scales_of(unit, codes), levels).reshape(-1))
    indices = np.concatenate(all_indices)
    there = indices != levels // 2
    gaps = _gaps(there)
    # Zero is the middle level: those above it move down by one.
    values = indices[there]
    values = compress(values - (values > levels // 2), levels - 1)
    ways = {
        _GAPS: compress(gaps, _LONGEST + 1),
        _BITMASK: compress(there.astype(np.uint8), 2),
    }
    way = min(ways, key=lambda each: len(ways[each]))
    counts = _COUNTS.pack(gaps.size, int(there.sum()))
    return b"".join([bytes([bits, way]), *heads, counts, ways[way], values])


def read_sparse(content: bytes, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Returns kernels, float32.

    Args:
      content: as `write_sparse` returned it.
      shapes: name -> shape, in its order.

    Raises:
      BundleError: a stream is damaged.
    """
    bits, way = content[:2]
    levels, at, scales = LEVELS[bits], 2, {}
    for name, shape in shapes.items():
        channels = matrix_shape(shape)[1]
        unit = np.frombuffer(content[at : at + 4], "<f4").astype(np.float32)[0]
        scales[name] = scales_of(unit, np.frombuffer(content[at + 4 :][:channels], np.uint8))
        at += 4 + channels
    gap_count, count = _COUNTS.unpack_from(content, at)
    rest, total = content[at + _COUNTS.size :], sum(map(math.prod, shapes.values()))
    there = np.zeros(total, bool)
    if way == _BITMASK:
        mask, rest = decompress(rest, total, 2)
        there = mask.astype(bool)
    else:
        gaps, rest = decompress(rest, gap_count, _LONGEST + 1)
        there[_places(gaps)] = True
    values, _ = decompress(rest, count, levels - 1)
    indices = np.full(total, levels // 2, np.uint8)
    indices[there] = values + (values >= levels // 2)
    kernels, start = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        matrix = indices[start : start + size].reshape(matrix_shape(shape))
        kernels[name] = dequantise(matrix, scales[name], levels).reshape(shape)
        start += size
    return kernels


def _gaps(there: np.ndarray) -> np.ndarray:
    """Zeros before each weight, [symbols] uint8; a long run of zeros is several symbols."""
    before = np.diff(np.flatnonzero(there), prepend=-1) - 1
    whole, rest = np.divmod(before, _LONGEST)
    symbols = np.full(int(whole.sum()) + rest.size, _LONGEST, np.uint8)
    symbols[np.cumsum(whole + 1) - 1] = rest
    return symbols


def _places(gaps: np.ndarray) -> np.ndarray:
    """Indices of the weights; the inverse of `_gaps`."""
    ends = gaps < _LONGEST
    return np.cumsum(gaps.astype(np.int64) + ends)[ends] - 1
