"""What a CIFAR ResNet is made of: stem, blocks, and the transition between stages."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from accordion_jax.models.norm import BatchNorm, relu

_conv = functools.partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding="SAME",
    use_bias=False,
    # He et al. 2015 (arXiv:1502.01852): keeps the variance of a ReLU network's signals.
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)


class Stem(nn.Module):
    """The first convolution, batch norm and ReLU: [b, h, w, colours] to [b, h, w, channels]."""

    channels: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [batch, height, width, channels]."""
        x = _conv(self.channels, dtype=self.dtype, name="conv")(x)
        return relu(BatchNorm(self.axis_name, name="norm")(x, train))


class Block(nn.Module):
    """A basic residual learning structure: two 3x3 convolutions with batch norm, and a shortcut.

    With `classes`, it also holds the head of the configurations that end with it, which the network
    applies.
    """

    channels: int
    dtype: Any
    axis_name: str | None
    classes: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns an array of the shape of `x`."""
        y = _conv(self.channels, dtype=self.dtype, name="conv1")(x)
        y = relu(BatchNorm(self.axis_name, name="norm1")(y, train))
        y = _conv(self.channels, dtype=self.dtype, name="conv2")(y)
        y = relu(BatchNorm(self.axis_name, name="norm2")(y, train) + x)
        if self.classes and self.is_initializing():
            nn.Dense(self.classes, dtype=self.dtype, name="head")(pool(y))
        return y


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply_block(
    block: Block, variables: Any, x: jax.Array, train: bool
) -> tuple[jax.Array, dict[str, Any]]:
    """Returns a block's output and, in training, its new running statistics.

    A function of its own to JAX, so that equal blocks are traced once: not once a block and
    program. XLA inlines the calls, and compiles the program that it would without.

    Args:
      block: static; unbound, so that all blocks of a stage are the same one.
      variables: of the block: {"params": ..., "batch_stats": ...}.
      x: [batch, height, width, channels].
      train: static.
    """
    if not train:
        return block.apply(variables, x, False), {}  # type: ignore[return-value]
    y, updated = block.apply(variables, x, True, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def put_statistics(block: Block, statistics: dict[str, Any]) -> None:
    """Makes these a bound block's running statistics."""
    for name, values in statistics.items():
        block.put_variable("batch_stats", name, values)


def pool(x: jax.Array) -> jax.Array:
    """The mean over the map: [batch, height, width, channels] to [batch, channels] float32."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def halve(x: jax.Array, channels: int) -> jax.Array:
    """The transition between stages: 2x2 average pooling, channels padded with zeros."""
    batch, height, width, present = x.shape
    pooled = x.reshape(batch, height // 2, 2, width // 2, 2, present).mean(axis=(2, 4))
    return jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (0, channels - present)))
