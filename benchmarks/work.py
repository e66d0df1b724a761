"""What both sides of the benchmark work on."""

import dataclasses

import numpy as np

IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = 100
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclasses.dataclass(frozen=True)
class Options:
    """The size of the work.

    Attributes:
      depth_n: n of ResNet-(6n+2): blocks a stage.
      batch_size: of a training step.
      precision: "float32" or "bfloat16", of the computation; parameters are float32.
      torch_compile: "off", "default", or another mode of `torch.compile`.
      examples: images on the device.
      sweep_examples: of them, those that the sweep measures on.
      sweep_batch_size: images at once in the sweep.
      pad: of the random crop.
    """

    depth_n: int = 9
    batch_size: int = 124
    precision: str = "float32"
    torch_compile: str = "off"
    examples: int = 10_000
    sweep_examples: int = 1_000
    sweep_batch_size: int = 500
    pad: int = 4

    @property
    def stage_sizes(self) -> tuple[int, int, int]:
        """Blocks a stage."""
        return (self.depth_n,) * 3

    @property
    def blocks(self) -> int:
        """Of the full model."""
        return 3 * self.depth_n

    def mask(self, depth: int) -> tuple[bool, ...]:
        """The skip mask of the first `depth` blocks."""
        return tuple(block >= depth for block in range(self.blocks))


def random_data(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [examples, 32, 32, 3] uint8 and labels [examples] int32, always the same."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (examples, *IMAGE_SHAPE), np.uint8)
    return images, generator.integers(0, NUM_CLASSES, examples, np.int32)
