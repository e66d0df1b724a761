"""What is worked on, by our side of a benchmark and by any other: it needs no JAX."""

import dataclasses
import resource
import sys

import numpy as np

IMAGE_SHAPE = (32, 32, 3)
PAD = 4  # of the random crop
NUM_CLASSES = 100
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

SkipMask = tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """The size of the work.

    Attributes:
      depth_n: n of ResNet-(6n+2): blocks a stage.
      batch_size: of a training step, over all devices.
      precision: "float32" or "bfloat16", of the computation; parameters are float32.
      torch_compile: "off", "default", or another mode of `torch.compile`.
      examples: images on the device.
      sweep_examples: of them, those that the sweep measures on.
      sweep_batch_size: images at once in the sweep.
    """

    depth_n: int = 9
    batch_size: int = 124
    precision: str = "float32"
    torch_compile: str = "off"
    examples: int = 10_000
    sweep_examples: int = 1_000
    sweep_batch_size: int = 500

    def __str__(self) -> str:
        return f"ResNet-{6 * self.depth_n + 2}, batch {self.batch_size}, {self.precision}"

    @property
    def blocks(self) -> int:
        """Of the full model."""
        return 3 * self.depth_n

    def mask(self, depth: int) -> SkipMask:
        """The skip mask of the first `depth` blocks."""
        return tuple(block >= depth for block in range(self.blocks))

    @property
    def full(self) -> SkipMask:
        """The skip mask that skips nothing."""
        return self.mask(self.blocks)


def random_data(examples: int, classes: int = NUM_CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Returns images [examples, 32, 32, 3] uint8 and labels [examples] int32, always the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, *IMAGE_SHAPE), np.uint8)
    return images, rng.integers(0, classes, examples, np.int32)


def evenly_spaced(last: int, count: int) -> list[int]:
    """Returns so many whole numbers from 1 to `last`, the last among them; all where count is 0."""
    count = min(count or last, last)
    return sorted({max(1, round(last * i / count)) for i in range(1, count + 1)})


def peak_process_bytes() -> int:
    """Returns the most memory that this process has used."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
