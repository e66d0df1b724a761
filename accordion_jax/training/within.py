"""Training of the bits that a refinement adds, while those that are sent first stay as they are.

A network in few bits serves all depths. When the bits come that make more of them, the full depth
is there, or soon will be, and they need not be what was rounded off: any value that the few bits
round to is as good to the device. So a run may begin with a network for all depths, and train what
its first bits leave open, for the full depth alone: each weight of a convolution stays in the
*cell* of its level, the values that are nearest to it. (That a few bits are a network by themselves
and more bits another: Jin et al. 2020, arXiv:1912.09666, for several precisions trained together.)

Dense kernels, which are heads, stay as they are, and all else is free: norms are sent anew with a
refinement.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax.training.rounding import best_scale, level_at, levels_of
from accordion_jax.training.state import Tree

# Share of a level's distance to the next that a weight may be away from it; half of it is the
# border, which a weight that is rounded to more bits must not cross.
_REACH = 0.4
# Scales that are tried for a channel, sixteen an octave, as a bundle does: from a half octave above
# the one that clips nothing to four below it.
_TRIED = tuple(2.0 ** (-k / 16) for k in range(-8, 64))


def cells(params: Mapping[str, Tree], bits: int) -> dict[str, dict[str, Any]]:
    """Returns the least and the largest value that each number may have.

    Args:
      params: unit -> tree, of the network whose first bits stay; unchanged.
      bits: 1 to 7, that are sent first.

    Returns:
      {"least": ..., "most": ...}, each of the structure and shapes of `params`.

    Raises:
      ValueError: there is no convolution.
    """
    if not any(np.ndim(leaf) > 2 for leaf in jax.tree.leaves(params)):
        raise ValueError(
            f"config.train.within_bits={bits} trains what {bits} bits of convolutions leave open, "
            "and this network has none; set it to 0"
        )
    leaves, structure = jax.tree.flatten(dict(params))
    least, most = zip(*(_cell(np.asarray(leaf), bits) for leaf in leaves), strict=True)
    unflatten = functools.partial(jax.tree.unflatten, structure)
    return {"least": unflatten(least), "most": unflatten(most)}


def _cell(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of each number's cell."""
    if array.ndim < 2:
        return np.full_like(array, -np.inf), np.full_like(array, np.inf)
    if array.ndim == 2:
        return array, array
    weights, levels = jnp.asarray(array.reshape(-1, array.shape[-1])), levels_of(bits)
    find = functools.partial(best_scale, levels=levels, factors=_TRIED)
    found = jax.vmap(find, 1)(weights)
    level, scale = np.asarray(level_at(weights, found[None], levels)), np.asarray(found)
    outermost = (levels - 1) / 2
    # The last levels are all that is beyond them, too.
    least = np.where(level <= -outermost, -np.inf, (level - _REACH) * scale)
    most = np.where(level >= outermost, np.inf, (level + _REACH) * scale)
    shape = array.shape
    return least.astype(np.float32).reshape(shape), most.astype(np.float32).reshape(shape)


def stay_within(new: Tree, least: Tree, most: Tree) -> Any:
    """Returns a unit's new parameters, each brought back into its cell.

    Args:
      new: after a step.
      least: of its cells.
      most: of its cells.
    """
    return jax.tree.map(jnp.clip, new, least, most)
