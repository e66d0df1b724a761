"""Training of the bits that a refinement adds, while those that are out already stay as they are.

A network in few bits serves all depths. When the bits come that make more of them, the full depth
is there, or soon will be, and they need not be what was rounded off: any value that the few bits
round to is as good to the device. So a run may begin with a bundle for all depths, and train what
its first bits leave open, for the full depth alone: each weight of a convolution stays in the
*cell* of its level, the values that are nearest to it. (That a few bits are a network by themselves
and more bits another: Jin et al. 2020, arXiv:1912.09666, for several precisions trained together.)

Dense kernels, which are heads, stay as they are, and all else is free: norms are sent anew with a
refinement.

A run that begins with a bundle gives its kernels another size (`unfolding`), and cells are of that
size too.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax.training.state import Tree

# Share of a level's distance to the next that a weight may be away from it. Half of it is the
# border; so near to it, rounding to more bits would carry many weights over, and a bundle bring
# them back.
REACH = 0.45


class Within(NamedTuple):
    """Where the parameters of a run may go.

    Attributes:
      least: of each number, of the structure and shapes of the parameters.
      most: likewise.
      sizes: of each array, how many times as large as in the bundle it is.
    """

    least: dict[str, Any]
    most: dict[str, Any]
    sizes: dict[str, Any]


def within(
    cells: Mapping[str, Tree], bundled: Mapping[str, Tree], begun: Mapping[str, Tree]
) -> Within:
    """Returns where parameters may go.

    Args:
      cells: {"least": ..., "most": ...} of the bundle's parameters, each unit -> tree.
      bundled: the parameters of the bundle.
      begun: those that the run begins with: of the bundle, kernels perhaps of another size.

    Raises:
      ValueError: there is no convolution.
    """
    if not any(np.ndim(leaf) > 2 for leaf in jax.tree.leaves(dict(begun))):
        raise ValueError(
            "config.train.within_bits trains what few bits of convolutions leave open, and this "
            "network has none; set it to 0"
        )
    sizes = jax.tree.map(_size, dict(begun), dict(bundled))
    least, most = (
        jax.tree.map(_end, dict(cells[end]), sizes, dict(begun)) for end in ("least", "most")
    )
    return Within(least, most, sizes)


def _size(now: Any, before: Any) -> float:
    if np.ndim(now) < 2 or not np.any(before):
        return 1.0
    norms = (float(np.linalg.norm(np.asarray(each, np.float64))) for each in (now, before))
    return next(norms) / next(norms)


def _end(end: Any, size: float, begun: Any) -> np.ndarray:
    """The end of each number's cell; a dense kernel has no room."""
    fixed = np.ndim(begun) == 2
    return np.asarray(begun, np.float32) if fixed else np.asarray(end * size, np.float32)


def stay_within(new: Tree, least: Tree, most: Tree) -> Any:
    """Returns a unit's new parameters, each brought back into its cell.

    Args:
      new: after a step.
      least: of its cells.
      most: of its cells.
    """
    return jax.tree.map(jnp.clip, new, least, most)
