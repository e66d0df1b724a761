"""What a bundle sends first of each unit, before any refinement. NumPy only."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.cutting import BASE, tree_of
from accordion_jax.delivery.bundle.encodings.contract import Tensor
from accordion_jax.delivery.bundle.encodings.integers import Quantised
from accordion_jax.delivery.bundle.encodings.segment import Encoded, read
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import Piece
from accordion_jax.delivery.errors import BundleError

# No more bits refine 8.
MOST_REFINED = 7


@dataclasses.dataclass(frozen=True)
class FirstBits:
    """The segments of a bundle that refine nothing.

    Attributes:
      bits: of a weight, once all of them are there.
      pieces: unit -> as it is sent.
    """

    bits: int
    pieces: Mapping[str, Piece]

    def encoded(self, unit: str) -> Encoded:
        """Returns the tensors of a unit, as a device holds them."""
        piece = self.pieces[unit]
        return read(piece.content, piece.layout)

    def cells(self, reach: float) -> dict[str, dict[str, Any]]:
        """Returns the least and the largest value that each parameter may have.

        A level's *cell* are the values that are nearest to it; the last levels' are all that is
        beyond them, too. What is no kernel of a convolution (more than two axes) may have any.

        Args:
          reach: share of a level's distance to the next that a value may be away from it; half of
            it is the border.

        Returns:
          {"least": tree, "most": tree}, of the structure and shapes of the parameters, float32.
        """
        ends: dict[str, dict[str, Any]] = {"least": {}, "most": {}}
        for unit in self.pieces:
            found = {
                name: _cell(tensor, reach) for name, tensor in self.encoded(unit).tensors.items()
            }
            for i, end in enumerate(ends.values()):
                one = {name: pair[i] for name, pair in found.items()}
                end |= tree_of("" if unit == BASE else f"{unit}/", one)["params"]
        return ends


def _cell(tensor: Tensor, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of each number's cell, of the tensor's shape."""
    least, most = (np.full(tensor.shape, end, np.float32) for end in (-np.inf, np.inf))
    if len(tensor.shape) < 3 or not isinstance(tensor, Quantised):
        return least, most
    outermost = (tensor.levels - 1) / 2
    level = tensor.indices - outermost
    inner = level > -outermost
    least.reshape(level.shape)[inner] = ((level - reach) * tensor.scales)[inner]
    inner = level < outermost
    most.reshape(level.shape)[inner] = ((level + reach) * tensor.scales)[inner]
    return least, most


def read_first_bits(folder: str | os.PathLike) -> FirstBits:
    """Returns what a bundle sends first; its segments are not checked against their digests.

    Raises:
      FileNotFoundError, ManifestError: as `reading.read_manifest`.
      BundleError: it has no units in a few bits each, all the same; names what it has.
    """
    manifest = read_manifest(folder)
    pieces, bits = {}, set()
    for segment in manifest.segments:
        if segment.refines or segment.is_statistics:
            continue
        bits.add(segment.bits)
        if segment.layout is not None and segment.bits is not None:
            content = segment_path(folder, segment.sha256).read_bytes()
            pieces[segment.unit] = Piece(segment.unit, segment.bits, segment.layout, content)
    (only,) = bits if len(bits) == 1 else (None,)
    if only is None or only > MOST_REFINED:
        raise BundleError(
            f"{os.fspath(folder)} sends its blocks in {sorted(map(str, bits))} bits first; wanted "
            "a bundle of 1 to 7, as of --bits=4"
        )
    return FirstBits(only, pieces)
