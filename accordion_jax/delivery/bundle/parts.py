"""The parts of a manifest: segments, and configurations made of them."""

import dataclasses

from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.depth import SkipMask


@dataclasses.dataclass(frozen=True)
class Segment:
    """The smallest piece of a model that is sent: one file.

    The first segment of a unit holds its tensors; each later one refines the one before it, and is
    of no use without it.

    Attributes:
      name: unique in its manifest; that of the unit, and of a refinement with the bits that it
        leads to: ``stage1_block01.8``.
      unit: what it is of: ``base``, the name of a block, or own statistics.
      bits: a weight once it has been used: 1 to 8, 16 or 32; None where the file's own types say.
      sha256: of the file, hexadecimal.
      size_bytes: of the file, as it goes over the wire.
      tensor_bytes: of the unit's arrays, unpacked.
      layout: of the unit's tensors; None: the file is a safetensors file, which says it itself.
      refines: name of the segment that it adds bits to; None where it holds tensors.
      is_statistics: whether the unit is a configuration's own statistics, which take the place of
        those of other units (`statistics`).
    """

    name: str
    unit: str
    bits: int | None
    sha256: str
    size_bytes: int
    tensor_bytes: int
    layout: Layout | None = dataclasses.field(default=None, hash=False)
    refines: str | None = None
    is_statistics: bool = False


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A set of segments that is a model, and the blocks that it keeps.

    Attributes:
      name: unique in its manifest.
      segments: names of all that it needs, in sending order.
      skip_mask: one bool a block, in the order of the forward pass; True skips the block.
      statistics: the unit of its own statistics; None where it runs with those of its blocks.
    """

    name: str
    segments: tuple[str, ...]
    skip_mask: SkipMask
    statistics: str | None = None
