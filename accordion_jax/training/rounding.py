"""Weights that are rounded in the forward pass: training for bundles of few bits.

A step computes with each unit's kernels in one of the given numbers of bits, drawn for each unit
and step, and moves the float32 weights by the gradient with respect to the rounded ones, as if
rounding were the identity (*straight through*: Bengio et al. 2013, arXiv:1308.3432; Jacob et al.
2018, arXiv:1712.05877). Since a device may hold some blocks in few bits and others in more, units
are drawn independently. The levels are those of a bundle's integers: 2^bits - 1 of them about zero,
a scale a channel, that of the least squared error.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from accordion_jax.training.state import Tree

# More bits are as good as the weights themselves.
MOST_ROUNDED = 8
# Scales that are tried for a channel: from a half octave above the one that clips nothing to two
# and a half below it, eight an octave. A bundle tries sixteen an octave: on the kernels of a
# ResNet-20 that takes twice as long, and the squared error at 4 bits is 0.7 % smaller.
SCALES_TRIED = tuple(2.0 ** (-k / 8) for k in range(-4, 20))


def levels_of(bits: int) -> int:
    """Returns how many levels integers of so many bits have: about zero, which is one of them."""
    return 2**bits - (bits > 1)


def rounded(kernel: jax.Array, bits: int) -> jax.Array:
    """Returns a kernel in integers of so many bits; its gradient is passed on unchanged.

    Args:
      kernel: [..., channels] float32.
      bits: 1 to 8.
    """
    fixed = jax.lax.stop_gradient(kernel)
    channels = fixed.reshape(-1, kernel.shape[-1])
    levels = levels_of(bits)
    nearest = jax.vmap(lambda weights: _nearest(weights, levels), 1, 1)(channels)
    # The second term is zero, and has the gradient.
    return nearest.reshape(kernel.shape) + (kernel - fixed)


def _nearest(weights: jax.Array, levels: int) -> jax.Array:
    """The weights of one channel, [rows], at the levels of the scale that suits them best."""
    scale = best_scale(weights, levels)
    return level_at(weights, scale, levels) * scale


def best_scale(weights: jax.Array, levels: int) -> jax.Array:
    """Returns the scale with the least squared error of the weights of one channel, [].

    Args:
      weights: [rows].
      levels: how many.
    """
    largest = jnp.max(jnp.abs(weights))
    # A channel of zeros stays one, whatever its scale is.
    unit = jnp.where(largest > 0, largest, 1.0) / ((levels - 1) / 2)
    tried = jnp.asarray(SCALES_TRIED, weights.dtype) * unit

    def error(scale: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(level_at(weights, scale, levels) * scale - weights))

    return tried[jnp.argmin(jax.vmap(error)(tried))]


def level_at(weights: jax.Array, scale: jax.Array, levels: int) -> jax.Array:
    """Returns the level that is nearest to each weight, about zero, in steps of the scale."""
    half = (levels - 1) / 2
    return jnp.clip(jnp.round(weights / scale + half), 0, levels - 1) - half


def round_units(
    params: Mapping[str, Tree],
    bits: Sequence[int],
    key: jax.Array,
    cells: Sequence[Mapping[str, Tree]] = (),
    rounded: Callable[..., jax.Array] = rounded,
) -> dict[str, Any]:
    """Returns parameters whose kernels are rounded, each unit's to one of some numbers of bits.

    Args:
      params: unit -> tree. Arrays of two axes or more are kernels; the others stay.
      bits: 1 to 8, 16 or 32, each as likely as the others; 16 and 32 round nothing.
      key: of the draw.
      cells: more trees of this structure.
      rounded: of a kernel, its arrays in `cells`, and a number of bits.
    """
    names = sorted(params)
    drawn = jax.random.randint(key, (len(names),), 0, len(bits))

    def one_of(leaf: jax.Array, *cell: jax.Array, which: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return leaf
        every = [rounded(leaf, *cell, each) if each <= MOST_ROUNDED else leaf for each in bits]
        return every[0] if len(every) == 1 else jax.lax.select_n(which, *every)

    return {
        name: jax.tree.map(
            functools.partial(one_of, which=which), params[name], *(tree[name] for tree in cells)
        )
        for name, which in zip(names, drawn, strict=True)
    }
