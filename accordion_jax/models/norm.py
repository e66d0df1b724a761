"""Batch norm and ReLU in the form that reads the features least often.

These layers do little arithmetic on much memory: what they cost is how often they go through the
features. The gradients that JAX derives for them go through them more often than those that one
derives by hand, and keep more for the backward pass; so both have theirs written out. The result is
the one of `flax.linen.BatchNorm`, but for rounding.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

Statistics = tuple[jax.Array, jax.Array]


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last (Ioffe and Szegedy 2015, arXiv:1502.03167).

    Parameters ``scale`` and ``bias``, and in ``batch_stats`` the running ``mean`` and (biased)
    ``var``: the names of `flax.linen.BatchNorm`.

    Attributes:
      axis_name: of the mapped axis over which statistics are averaged too; None for none.
      momentum: what is kept of the running statistics in a step.
      epsilon: added to the variance.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns an array of the shape and type of `x`; the arithmetic is float32.

        Args:
          x: [..., channels].
          train: normalise with the statistics of `x`, and update the running ones.
        """
        channels = x.shape[-1:]
        # The type is said: JAX_ENABLE_X64 changes the default, and a run must not depend on it.
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if not train:
            return _scale_and_shift(x, (mean.value, var.value), scale, bias, self.epsilon)
        y, batch = _normalise(x, scale, bias, self.epsilon, self.axis_name)
        if not self.is_initializing():
            keep = self.momentum
            mean.value, var.value = (
                keep * old + (1 - keep) * new
                for old, new in zip((mean.value, var.value), batch, strict=True)
            )
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, Statistics]:
    """Returns x with mean 0 and variance 1, scaled and shifted; and its statistics.

    The statistics are not differentiated: they are for keeping.
    """
    return _normalise_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalise_forward(x, scale, bias, epsilon, axis_name):
    wide, count = x.astype(jnp.float32), x.size // x.shape[-1]
    mean, square = (total / count for total in _sums(wide, wide * wide))
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
    var = jnp.maximum(square - mean * mean, 0.0)  # by rounding it can be below zero
    y = _scale_and_shift(x, (mean, var), scale, bias, epsilon)
    return (y, (mean, var)), (x, mean, jax.lax.rsqrt(var + epsilon), scale)


def _normalise_backward(_, axis_name, kept, cotangents):
    """Gradients with respect to x, scale and bias.

    With x' = (x - mean) r, r = 1 / sqrt(var + epsilon), y = scale x' + bias, and g the gradient
    with respect to y: that of bias is sum(g), that of scale sum(g x'), and that of x is
    scale r (g - mean(g) - x' mean(g x')), which is a weighted sum of g, x and a constant.
    """
    x, mean, r, scale = kept
    g, wide, count = cotangents[0].astype(jnp.float32), x.astype(jnp.float32), x.size // x.shape[-1]
    total, product = _sums(g, g * (wide - _along_last(mean, x)))
    of_bias, of_scale = total, product * r
    if axis_name is not None:
        total, product = jax.lax.pmean((total, product), axis_name)
    of_g = scale * r
    vectors = (of_g, -of_g * total / count, -of_g * r * r * product / count, mean)
    of_g, constant, of_x, mean = (_along_last(v, x) for v in _apart(*vectors))
    return (g * of_g + constant + (wide - mean) * of_x).astype(x.dtype), of_scale, of_bias


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _scale_and_shift(
    x: jax.Array, statistics: Statistics, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Batch norm with given statistics.

    The mean goes first: folded into the bias, it would cost precision where it is large.
    """
    mean, var = statistics
    vectors = (mean, scale * jax.lax.rsqrt(var + epsilon), bias)
    mean, factor, bias = (_along_last(v, x) for v in _apart(*vectors))
    return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Returns max(x, 0); its gradient needs the result alone, which the next layer keeps anyway."""
    return _relu_forward(x)[0]


def _relu_forward(x):
    (zero,) = _apart(jnp.zeros(x.shape[-1:], x.dtype))
    (y,) = _apart(jnp.maximum(x, _along_last(zero, x)))
    return y, y


def _relu_backward(y, g):
    return (jnp.where(y > 0, g, jnp.zeros_like(g)),)


relu.defvjp(_relu_forward, _relu_backward)


def _sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of two arrays over all axes but the last.

    On a GPU as one reduction of pairs, which takes a kernel less. The other compilers do as well
    with two: XLA's library fusions on CPU know no reduction of pairs, and on TPUs it costs more.
    """
    return jax.lax.platform_dependent(
        x, y, cuda=_sum_of_pairs, rocm=_sum_of_pairs, default=_two_sums
    )


def _two_sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    over = tuple(range(x.ndim - 1))
    return x.sum(over), y.sum(over)


def _sum_of_pairs(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    def add(a, b):
        return a[0] + b[0], a[1] + b[1]

    zeros = (jnp.zeros((), x.dtype), jnp.zeros((), y.dtype))
    return jax.lax.reduce((x, y), zeros, add, tuple(range(x.ndim - 1)))


def _along_last(v: jax.Array, x: jax.Array) -> jax.Array:
    """A vector of channels in the rank of x."""
    return v.reshape((1,) * (x.ndim - 1) + v.shape)


def _apart(*values: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the same values, for XLA as if they came from elsewhere (not on TPUs).

    On CPU, XLA's library fusions broadcast a vector over the features inside a fusion, but not an
    expression of vectors, nor a constant: those become arrays of the features' size, written and
    read again. On a GPU XLA makes several small kernels of such an expression. And knowing that y
    is max(x, 0), it compares x in the gradient, and so must keep x. TPU's compiler does well alone,
    and moves a tenth more to and from memory with the barrier.
    """

    def barrier(*values):
        return jax.lax.optimization_barrier(values)

    def nothing(*values):
        return values

    return jax.lax.platform_dependent(*values, tpu=nothing, default=barrier)
