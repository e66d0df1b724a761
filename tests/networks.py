"""Tiny networks for the tests, and what a program of theirs consists of."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax.models import ResNet

CHANNELS = (4, 8, 8)
IMAGE_SHAPE = (8, 4, 2)  # no two alike, so that a mix-up shows


def tiny_resnet(stage_sizes=(2, 1, 1), num_classes=10, **fields) -> ResNet:
    return ResNet(num_classes, stage_sizes, CHANNELS, **fields)


def perturbed_variables(model, image_shape=IMAGE_SHAPE, seed=0):
    """Variables as training might leave them: no scale of 1, no bias or mean of 0."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)
        low, high = (0.5, 1.5) if name in ("scale", "var") else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def random_images(batch, image_shape=IMAGE_SHAPE, seed=0):
    values = np.random.default_rng(seed).normal(size=(batch, *image_shape))
    return jnp.asarray(values, jnp.float32)


def equations(jaxpr, primitive: str) -> Iterator:
    """Every equation of a primitive in a jaxpr, those of inner jaxprs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns"):
                    yield from equations(inner, primitive)
                elif hasattr(inner, "jaxpr"):
                    yield from equations(inner.jaxpr, primitive)
