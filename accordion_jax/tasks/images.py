"""Images of one size, each of one class."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from accordion_jax.tasks.answers import cross_entropy, not_the_largest, soft_cross_entropy
from accordion_jax.tasks.contract import Spec


@dataclasses.dataclass(frozen=True)
class Images:
    """Classification of images; see `contract.Task`.

    Attributes:
      shape: (height, width, colours).
      mean: a colour, of pixel / 255.
      std: a colour, of pixel / 255; positive.
      pad: pixels of zero padding around the random crop, in training.
      flip: whether to flip left and right at random, in training.

    Raises:
      ValueError: the fields do not fit together; names them.
    """

    kind: ClassVar[str] = "images"
    input_name: ClassVar[str] = "images"
    target_name: ClassVar[str] = "labels"
    example_name: ClassVar[str] = "image"
    error_name: ClassVar[str] = "top-1 error"

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False

    loss = staticmethod(cross_entropy)
    distillation_loss = staticmethod(soft_cross_entropy)
    wrong = staticmethod(not_the_largest)

    def __post_init__(self):
        if len(self.shape) != 3 or not all(isinstance(n, int) and n > 0 for n in self.shape):
            raise ValueError(f"shape={self.shape!r} of images; wanted (height, width, colours)")
        colours = self.shape[-1]
        if len(self.mean) != colours or len(self.std) != colours:
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations for images of "
                f"shape {self.shape}; wanted {colours} of each, one a colour"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} has a value that is not positive")
        if self.pad < 0:
            raise ValueError(f"pad={self.pad} is negative; wanted the pixels to pad, 0 or more")

    @property
    def inputs(self) -> Spec:
        """Pixels as they are stored."""
        return Spec(self.shape, "uint8")

    def describe(self) -> dict[str, Any]:
        """Returns shape, mean and std."""
        return {"shape": list(self.shape), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Images":
        """Returns the task of a manifest's ``input``."""
        try:
            shape, mean, std = (tuple(description[name]) for name in ("shape", "mean", "std"))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"input={dict(description)} of images lacks or spoils {error}; wanted shape, mean "
                "and std"
            ) from error
        return cls(shape, mean, std)

    def check(self, inputs: Any) -> None:
        """Refuses all but uint8 images of this shape."""
        if inputs.dtype != np.uint8 or tuple(inputs.shape[1:]) != self.shape:
            raise ValueError(
                f"images are {inputs.dtype} of shape {tuple(inputs.shape)}; wanted uint8 of shape "
                f"(batch, {', '.join(map(str, self.shape))})"
            )

    def prepare(self, inputs: Any) -> Any:
        """Returns (images / 255 - mean) / std, [batch, height, width, colours] float32."""
        self.check(inputs)
        return normalise(inputs, self.mean, self.std)

    def with_augmentation(self, pad: int = 0, flip: bool = False) -> "Images":
        """Returns the task with random crops and flips."""
        return dataclasses.replace(self, pad=pad, flip=flip)

    def draw(self, key: Any, batch: int) -> Any:
        """Returns (offsets, flips), as `augmentation.augment_parameters`."""
        from accordion_jax.tasks import augmentation

        return augmentation.augment_parameters(key, batch, self.pad, self.flip)

    def augment(self, inputs: Any, drawn: Any) -> Any:
        """Returns the images cropped and flipped, uint8."""
        from accordion_jax.tasks import augmentation

        offsets, flips = drawn
        return augmentation.apply_augmentation(inputs, offsets, flips, self.pad)


def normalise(images: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Returns (images / 255 - mean) / std, as one product and one sum in float32.

    Args:
      images: [..., colours] uint8, NumPy or JAX.
      mean: one a colour, in units of pixel / 255.
      std: one a colour, likewise.
    """
    shape = (1,) * (images.ndim - 1) + (len(mean),)
    scale = (1 / (255 * np.asarray(std, np.float64))).astype(np.float32).reshape(shape)
    shift = (-np.asarray(mean, np.float64) / np.asarray(std)).astype(np.float32).reshape(shape)
    return images.astype(np.float32) * scale + shift
