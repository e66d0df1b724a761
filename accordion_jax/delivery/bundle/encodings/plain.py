"""Numbers as they are (float32), halved (float16), or known without being sent (zeros, ones).

float16 is for what there is little of and what is no weight of a product: biases, and the scale,
bias, mean and variance of a batch norm. Zeros and ones are what folding leaves of the latter
(`folding`).
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from accordion_jax.delivery.errors import BundleError


@dataclasses.dataclass(frozen=True)
class Plain:
    """A tensor in floating-point numbers.

    Attributes:
      code: of its encoding.
      shape: of the tensor.
      content: what is sent of it.
      values: of `shape`, float32.
    """

    code: int
    shape: tuple[int, ...]
    content: bytes
    values: np.ndarray

    def array(self) -> np.ndarray:
        """Returns the tensor, float32."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Float:
    """The encoding in floating-point numbers of one type; see `contract.Encoding`.

    Attributes:
      code: of the encoding.
      dtype: "<f2" or "<f4": little-endian.
    """

    code: int
    dtype: str

    def encode(self, array: np.ndarray, _: object, /) -> Plain:
        """Returns the array in this type.

        Raises:
          BundleError: a number is too large for it.
        """
        largest, most = float(np.abs(array).max(initial=0)), float(np.finfo(self.dtype).max)
        if largest > most:
            raise BundleError(
                f"{np.dtype(self.dtype).name} holds up to {most:g}, not {largest:g}; use float32"
            )
        numbers = array.astype(self.dtype)
        return Plain(self.code, array.shape, numbers.tobytes(), numbers.astype(np.float32))

    def read(self, shape: tuple[int, ...], take: Callable[[int], bytes]) -> Plain:
        """Returns the tensor that comes next.

        Raises:
          BundleError: a number is not finite.
        """
        content = take(math.prod(shape) * np.dtype(self.dtype).itemsize)
        values = np.frombuffer(content, self.dtype).astype(np.float32).reshape(shape)
        if not np.isfinite(values).all():
            raise BundleError("a number in it is not finite; write the bundle again")
        return Plain(self.code, shape, content, values)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The encoding of one value, of which nothing is sent; see `contract.Encoding`.

    Attributes:
      code: of the encoding.
      value: of each number.
    """

    code: int
    value: float

    def fits(self, array: np.ndarray) -> bool:
        """Returns whether each number of an array is the value."""
        return bool((array == self.value).all())

    def encode(self, array: np.ndarray, _: object, /) -> Plain:
        """Returns the array.

        Raises:
          BundleError: a number is not the value.
        """
        if not self.fits(array):
            raise BundleError(f"not all of its numbers are {self.value:g}; use float16 or float32")
        return self.read(array.shape)

    def read(self, shape: tuple[int, ...], _: object = None) -> Plain:
        """Returns the tensor; reads nothing."""
        return Plain(self.code, shape, b"", np.full(shape, self.value, np.float32))
