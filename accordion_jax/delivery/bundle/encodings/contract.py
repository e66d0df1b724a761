"""What an encoding is; and the layout of a segment: names and shapes of its tensors."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from accordion_jax.delivery.bundle.encodings.integers import Quantised
from accordion_jax.delivery.bundle.encodings.plain import Plain
from accordion_jax.delivery.errors import BundleError
from accordion_jax.system.text import short

Tensor = Plain | Quantised
# Hands out that many bytes of a segment, or raises BundleError.
Take = Callable[[int], bytes]

MAX_TENSORS = 4096
_MAX_AXES = 16
_MAX_BYTES = 2**53 - 1


class Encoding(Protocol):
    """How one tensor becomes bytes. A new one is a file beside this one, and an entry.

    A tensor is a `Plain` one, or a `Quantised` one whose indices are coded apart, together with
    those of the segment's other tensors.
    """

    @property
    def code(self) -> int:
        """What a segment calls it: 1 to 8 is that many bits; 0 to 255."""

    def encode(self, array: np.ndarray, finer: Tensor | None, /) -> Tensor:
        """Returns a tensor encoded.

        Args:
          array: float32, finite.
          finer: the tensor that a refinement makes of the result, if there is one.

        Raises:
          BundleError: it cannot hold the array.
        """

    def read(self, shape: tuple[int, ...], take: Take) -> Tensor:
        """Returns a tensor of this shape, read; its indices are still missing.

        Raises:
          BundleError: what is read is no such tensor.
        """


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the tensors of a segment are called, and their shapes, in the order of their bytes.

    It is not in the segment: all blocks of a stage have the same one, so that a manifest names it
    once, and a segment can claim no size that the manifest does not.

    Attributes:
      shapes: name -> shape.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        """Refuses what is no layout.

        Raises:
          BundleError: too many tensors or axes, or a size is no whole number or too large.
        """
        if len(self.shapes) > MAX_TENSORS:
            raise BundleError(f"{len(self.shapes)} tensors are more than {MAX_TENSORS}")
        for name, shape in self.shapes.items():
            sizes = all(type(size) is int and 0 <= size <= _MAX_BYTES for size in shape)
            if not isinstance(name, str) or len(shape) > _MAX_AXES or not sizes:
                raise BundleError(
                    f"tensor {short(name)} has the shape {short(shape)}; wanted at most "
                    f"{_MAX_AXES} whole numbers from 0"
                )
        if self.tensor_bytes > _MAX_BYTES:
            raise BundleError(f"tensors of {self.tensor_bytes} bytes are more than {_MAX_BYTES}")

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Layout":
        """Returns the layout of arrays, in their order."""
        return cls({name: np.shape(array) for name, array in arrays.items()})

    @classmethod
    def from_json(cls, value: Any) -> "Layout":
        """Reads what `to_json` returned.

        Raises:
          BundleError: it is something else, or two tensors have one name.
        """
        try:
            shapes = {name: tuple(shape) for name, shape in value}
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"{short(value)} is no layout; wanted [[name, [size, ...]], ...]"
            ) from error
        if len(shapes) != len(value):
            raise BundleError(f"two tensors of the layout {short(value)} have one name")
        return cls(shapes)

    def to_json(self) -> list[list[Any]]:
        """Returns it as a JSON value: ``[[name, [size, ...]], ...]``."""
        return [[name, list(shape)] for name, shape in self.shapes.items()]

    @property
    def tensor_bytes(self) -> int:
        """Of the decoded tensors, all float32."""
        return 4 * sum(map(math.prod, self.shapes.values()))


def check_finite(arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Does nothing where arrays can be encoded.

    Raises:
      BundleError: one is not of floating-point numbers of up to 32 bits, or has one that is not
        finite; names it.
    """
    for name, array in arrays:
        if array.dtype not in (np.float16, np.float32):
            raise BundleError(
                f"array {name!r} has dtype {array.dtype}; wanted float32 or float16. Segments of "
                "other numbers are not encoded"
            )
        if not np.isfinite(array).all():
            raise BundleError(
                f"array {name!r} has a number that is not finite; a model that diverged cannot be "
                "sent"
            )
