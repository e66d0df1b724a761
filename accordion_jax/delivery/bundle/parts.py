"""The parts of a manifest: segments, and configurations made of them."""

import dataclasses

from accordion_jax.depth import SkipMask


@dataclasses.dataclass(frozen=True)
class Segment:
    """The smallest piece of a model that is sent: one safetensors file.

    Attributes:
      name: unique in its manifest; ``base``, or the name of a block.
      sha256: of the file, hexadecimal.
      size_bytes: of the file, as it goes over the wire.
      tensor_bytes: of its arrays alone.
      depends_on: names of segments without which it is of no use; all earlier in sending order.
    """

    name: str
    sha256: str
    size_bytes: int
    tensor_bytes: int
    depends_on: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A configuration of the ladder, with what must be held to run it.

    Attributes:
      name: unique in its manifest.
      segments: names of all that it needs, in sending order.
      skip_mask: one bool a block, in the order of the forward pass; True skips the block.
    """

    name: str
    segments: tuple[str, ...]
    skip_mask: SkipMask
