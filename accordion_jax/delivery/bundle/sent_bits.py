"""What a bundle sends of each unit, up to some number of bits a weight. NumPy only."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.cutting import BASE, tree_of
from accordion_jax.delivery.bundle.encodings.contract import Tensor
from accordion_jax.delivery.bundle.encodings.integers import Quantised
from accordion_jax.delivery.bundle.encodings.segment import Encoded, read, refine
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import Piece
from accordion_jax.delivery.errors import BundleError

# No more bits refine 8.
MOST_REFINED = 7


@dataclasses.dataclass(frozen=True)
class SentBits:
    """The segments of a bundle, or those of its first bits.

    Attributes:
      bits: of a weight, in each step; they grow.
      pieces: unit -> each step of it, as it is sent.
    """

    bits: tuple[int, ...]
    pieces: Mapping[str, tuple[Piece, ...]]

    def up_to(self, bits: int) -> "SentBits":
        """Returns the steps up to one of `bits`."""
        count = self.bits.index(bits) + 1
        return SentBits(self.bits[:count], {unit: all[:count] for unit, all in self.pieces.items()})

    def encoded(self, unit: str) -> Encoded:
        """Returns the tensors of a unit at the last step, as a device holds them."""
        return held(self.pieces[unit])

    def levels(self) -> dict[str, dict[str, Any]]:
        """Returns the level that each parameter is at, and how far it is to the next.

        Returns:
          {"center": tree, "spacing": tree}, of the structure and shapes of the parameters, float32.
          More bits refine what has as many as `bits` says, in kernels of convolutions (more than
          two axes). Other kernels stay as they are: spacing zero; what is no kernel is sent anew:
          infinite.
        """
        found: dict[str, dict[str, Any]] = {"center": {}, "spacing": {}}
        for unit in self.pieces:
            tensors = self.encoded(unit).tensors
            prefix = "" if unit == BASE else f"{unit}/"
            center = {name: tensor.array() for name, tensor in tensors.items()}
            spacing = {name: self._spacing(tensor) for name, tensor in tensors.items()}
            for tree, arrays in zip(found.values(), (center, spacing), strict=True):
                tree |= tree_of(prefix, arrays)["params"]
        return found

    def _spacing(self, tensor: Tensor) -> np.ndarray:
        if len(tensor.shape) < 2:
            return np.full(tensor.shape, np.inf, np.float32)
        if len(tensor.shape) == 2 or not isinstance(tensor, Quantised):
            return np.zeros(tensor.shape, np.float32)
        scales = tensor.scales if tensor.bits == self.bits[-1] else np.float32(0)
        return np.array(np.broadcast_to(scales, tensor.shape))


def held(pieces: Sequence[Piece]) -> Encoded:
    """Returns what a device holds of a unit once these steps of it have come."""
    first, *later = pieces
    found = read(first.content, first.layout)
    for piece in later:
        found = refine(found, piece.content)
    return found


def read_sent_bits(folder: str | os.PathLike) -> SentBits:
    """Returns what a bundle sends; its segments are not checked against their digests.

    Raises:
      FileNotFoundError, ManifestError: as `reading.read_manifest`.
      BundleError: it has no units in a few bits first, all in the same; names what it has.
    """
    manifest = read_manifest(folder)
    pieces: dict[str, tuple[Piece, ...]] = {}
    for segment in manifest.segments:
        if segment.is_statistics or segment.layout is None or segment.bits is None:
            continue
        content = segment_path(folder, segment.sha256).read_bytes()
        piece = Piece(segment.unit, segment.bits, segment.layout, content)
        pieces[segment.unit] = (*pieces.get(segment.unit, ()), piece)
    steps = {tuple(piece.bits for piece in each) for each in pieces.values()}
    (bits,) = steps if len(steps) == 1 else ((),)
    if not bits or bits[0] > MOST_REFINED:
        found = ", ".join(" then ".join(map(str, each)) for each in sorted(steps))
        raise BundleError(
            f"{os.fspath(folder)} sends its blocks in {found or 32} bits; wanted a bundle of 1 to "
            "7 bits first, as of --bits=4"
        )
    return SentBits(bits, pieces)
