"""How convolution kernels lie on the devices between two steps.

To the model, a checkpoint and a bundle a kernel is [height, width, inputs, outputs], as in Flax:
HWIO. cuDNN takes it, and gives its gradient, as [outputs, height, width, inputs]: OHWI. From a
state in HWIO a step on a GPU therefore transposes every kernel before its use, transposes it once
more with its momentum to update them, and copies both into place: three small GPU kernels a
convolution, of some fifteen. So on a GPU the state lies in OHWI, and is turned round in the
program, where XLA takes a transposition for another name of the same memory. TPUs and CPUs want
HWIO (`python -m benchmarks.topology` counts what each makes of it).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HWIO, OHWI = "HWIO", "OHWI"


def preferred(platform: str) -> str:
    """Returns the layout in which kernels are kept on a platform, such as "cpu" or "gpu"."""
    return OHWI if platform in {"cuda", "gpu", "rocm"} else HWIO


def to_ohwi(tree: Any) -> Any:
    """Returns the tree with its kernels, which are its arrays of four axes, in OHWI.

    Args:
      tree: of NumPy arrays (the result has views), JAX arrays or tracers; kernels in HWIO.
    """
    return _moved(tree, -1, 0)


def from_ohwi(tree: Any) -> Any:
    """Returns a tree of `to_ohwi` with its kernels in HWIO again."""
    return _moved(tree, 0, -1)


def _moved(tree: Any, source: int, destination: int) -> Any:
    def move(x):
        moveaxis: Callable = np.moveaxis if isinstance(x, np.ndarray) else jnp.moveaxis
        return moveaxis(x, source, destination) if x.ndim == 4 else x

    return jax.tree.map(move, tree)
