"""How convolution kernels lie on the devices between two steps.

To the model, a checkpoint and a bundle a kernel is [height, width, inputs, outputs], as in Flax:
HWIO. cuDNN takes it, and gives its gradient, as [outputs, height, width, inputs] (OHWI) where XLA
computes on features with channels last, and as [outputs, inputs, height, width] (OIHW) where it
computes on channels first. From a state in HWIO a step on a GPU therefore transposes every kernel
before its use, transposes it once more with its momentum to update them, and copies both into
place: three small GPU kernels a convolution, of some fifteen. So on a GPU the state lies in the
order that cuDNN takes, and is turned round in the program, where XLA takes a transposition for
another name of the same memory. TPUs and CPUs want HWIO (`python -m benchmarks.compilers.chips`
counts what each makes of it).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HWIO, OHWI, OIHW = "HWIO", "OHWI", "OIHW"


def preferred(device: jax.Device, dtype: str) -> str:
    """Returns the order in which kernels are kept on a device.

    XLA chooses channels last for bfloat16 since Ampere and for float32 since Hopper, and channels
    first for all else on NVIDIA's GPUs.

    Args:
      device: may be one of a topology, without hardware.
      dtype: of the computation, such as "bfloat16".
    """
    capability = getattr(device, "compute_capability", None)  # such as "9.0"; only GPUs have it
    if device.platform not in {"cuda", "gpu"} or capability is None:
        return HWIO
    try:
        generation = float(capability)
    except ValueError:  # AMD's are called gfx90a; in what order XLA computes there was not tried
        return HWIO
    return OHWI if generation >= (8 if dtype == "bfloat16" else 9) else OIHW


def to_devices(tree: Any, order: str) -> Any:
    """Returns the tree with its kernels, which are its arrays of four axes, in another order.

    Args:
      tree: of NumPy arrays (the result has views), JAX arrays or tracers; kernels in HWIO.
      order: of kernels in the result.
    """
    return _transposed(tree, [HWIO.index(axis) for axis in order])


def from_devices(tree: Any, order: str) -> Any:
    """Returns a tree of `to_devices` with its kernels in HWIO again."""
    return _transposed(tree, [order.index(axis) for axis in HWIO])


def _transposed(tree: Any, axes: list[int]) -> Any:
    if axes == sorted(axes):
        return tree

    def transpose(x):
        library: Callable = np.transpose if isinstance(x, np.ndarray) else jnp.transpose
        return library(x, axes) if x.ndim == len(axes) else x

    return jax.tree.map(transpose, tree)
