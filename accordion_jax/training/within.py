"""Training of the bits that a refinement adds, while those that are out already stay as they are.

A network in few bits serves all depths. When the bits come that make more of them, the full depth
is there, or soon will be, and they need not be what was rounded off: any value that the few bits
round to is as good to the device. So a run may begin with a bundle for all depths, and train what
its first bits leave open, for the full depth alone: each weight of a convolution stays in the
*cell* of its level, the values that are nearest to it. (That a few bits are a network by themselves
and more bits another: Jin et al. 2020, arXiv:1912.09666, for several precisions trained together.)

Dense kernels, which are heads, stay as they are, as do such that are out in more bits than the
others. All else is free: norms are sent anew with a refinement.

Such a run may be for few bits too (`rounding`). A cell of the levels that are out holds about two
of those of one bit more, and rounding is to one of these.

A run that begins with a bundle gives its kernels another size (`unfolding`), and cells are of that
size too.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax.training.rounding import levels_of
from accordion_jax.training.state import Tree

# Share of a level's distance to the next that a weight may be away from it. Half of it is the
# border; so near to it, rounding to more bits would carry many weights over, and a bundle bring
# them back.
REACH = 0.45


# About the scale with which each level has 2^(bits more) of the finer ones, half an octave to both
# sides, sixteen an octave as in a bundle.
TRIED = tuple(2.0 ** (k / 16) for k in range(-8, 9))
# A finer level so near to the border of a cell, in finer steps, is in neither.
BORDER = 1e-3


class Within(NamedTuple):
    """Where the parameters of a run may go.

    Attributes:
      bits: of the levels that are out.
      center: of each number the level that it is at, of the structure and shapes of the parameters.
      spacing: of each number how far it is to the next level; zero where the number stays as it is,
        infinite where it may be any.
      sizes: of each array, how many times as large as in the bundle it is.
    """

    bits: int
    center: dict[str, Any]
    spacing: dict[str, Any]
    sizes: dict[str, Any]

    @property
    def cells(self) -> dict[str, Any]:
        """What a step takes of it."""
        return {"center": self.center, "spacing": self.spacing}


def within(
    levels: Mapping[str, Tree], bits: int, bundled: Mapping[str, Tree], begun: Mapping[str, Tree]
) -> Within:
    """Returns where parameters may go.

    Args:
      levels: {"center": ..., "spacing": ...} of the bundle's parameters, each unit -> tree.
      bits: of these levels.
      bundled: the parameters of the bundle.
      begun: those that the run begins with: of the bundle, kernels perhaps of another size.

    Raises:
      ValueError: there is no convolution that more bits refine.
    """
    sizes = jax.tree.map(_size, dict(begun), dict(bundled))
    spacing = jax.tree.map(np.multiply, dict(levels["spacing"]), sizes)
    center = jax.tree.map(_center, dict(levels["center"]), spacing, sizes, dict(begun))
    if not any(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(spacing)):
        raise ValueError(
            "config.train.within_bits trains what few bits of convolutions leave open, and this "
            "network has none; set it to 0"
        )
    return Within(bits, center, jax.tree.map(np.float32, spacing), sizes)


def _size(now: Any, before: Any) -> float:
    if np.ndim(now) < 2 or not np.any(before):
        return 1.0
    norms = (float(np.linalg.norm(np.asarray(each, np.float64))) for each in (now, before))
    return next(norms) / next(norms)


def _center(center: Any, spacing: Any, size: float, begun: Any) -> np.ndarray:
    if np.ndim(begun) < 2:
        return np.zeros(np.shape(begun), np.float32)
    stays = np.asarray(spacing) == 0
    return np.where(stays, begun, np.multiply(center, size)).astype(np.float32)


def ends(center: jax.Array, spacing: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """Returns the least and the largest value that each number may have.

    The last levels have no end outwards.

    Args:
      center: as in `Within`, of one array.
      spacing: likewise.
      bits: of the levels.
    """
    level, outermost = _level(center, spacing), (levels_of(bits) - 1) / 2 - 0.25
    reach = REACH * spacing
    least = jnp.where(level < -outermost, -jnp.inf, center - reach)
    most = jnp.where(level > outermost, jnp.inf, center + reach)
    return least, most


def _level(center: jax.Array, spacing: jax.Array) -> jax.Array:
    """Which level, about zero; 0 where there are none."""
    return jnp.where(spacing > 0, center, 0) / jnp.where(spacing > 0, spacing, 1)


def stay_within(new: Tree, center: Tree, spacing: Tree, bits: int) -> Any:
    """Returns a unit's new parameters, each brought back into its cell.

    Args:
      new: after a step.
      center: of its cells.
      spacing: of its cells.
      bits: of their levels.
    """

    def back(leaf: jax.Array, center: jax.Array, spacing: jax.Array) -> jax.Array:
        return jnp.clip(leaf, *ends(center, spacing, bits))

    return jax.tree.map(back, new, center, spacing)


def rounded_within(
    kernel: jax.Array, center: jax.Array, spacing: jax.Array, bits: int, *, held: int
) -> jax.Array:
    """Returns a kernel in more bits than are out; its gradient is passed on unchanged.

    Each weight is at the nearest of the levels that a bundle can refine its own to, with the scale
    a channel that has the least squared error (`delivery.bundle.encodings.nesting`).

    Args:
      kernel: [..., channels] float32.
      center: of its cells, of its shape.
      spacing: of its cells; where it is zero or infinite, nothing is rounded.
      bits: more than theirs, up to 8.
      held: bits of their levels.
    """
    fixed = jax.lax.stop_gradient(kernel)
    channels = (each.reshape(-1, kernel.shape[-1]) for each in (fixed, center, spacing))
    one = functools.partial(_nearest_within, held=held, bits=bits)
    nearest = jax.vmap(one, 1, 1)(*channels)
    # The second term is zero, and has the gradient.
    return nearest.reshape(kernel.shape) + (kernel - fixed)


def _nearest_within(
    weights: jax.Array, center: jax.Array, spacing: jax.Array, *, held: int, bits: int
) -> jax.Array:
    """The weights of one channel, [rows], at the nearest finer levels of their cells."""
    refined = (spacing > 0) & jnp.isfinite(spacing)
    unit = jnp.where(refined, spacing, 1)
    at, level = weights / unit, _level(center, unit)
    half, outermost = ((levels_of(each) - 1) / 2 for each in (bits, held))

    def found(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The weights at these finer levels, and the squared error."""
        least = jnp.ceil((level - 0.5) / scale + half + BORDER)
        most = jnp.floor((level + 0.5) / scale + half - BORDER)
        least = jnp.where(level < 0.25 - outermost, 0, jnp.maximum(least, 0))
        most = jnp.where(level > outermost - 0.25, 2 * half, jnp.minimum(most, 2 * half))
        value = (jnp.clip(jnp.round(at / scale + half), least, most) - half) * scale
        off = jnp.sum(jnp.where(refined, jnp.square(value - at), 0))
        return value, jnp.where(jnp.any(least > most), jnp.inf, off)

    tried = jnp.asarray(TRIED, weights.dtype) * 2.0 ** (held - bits)
    best = tried[jnp.argmin(jax.vmap(lambda scale: found(scale)[1])(tried))]
    return jnp.where(refined, found(best)[0] * unit, weights)
