"""Batch norm and ReLU are Flax's, in value, statistics and gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

from accordion_jax.models import norm
from accordion_jax.models.norm import BatchNorm, relu

SHAPE = (6, 5, 4, 3)


def draw(shape=SHAPE, seed=0, dtype=jnp.float32):
    """Features whose channels have means and spreads of their own."""
    rng = np.random.default_rng(seed)
    spread, mean = np.array([0.7, 1.0, 5.0]), np.array([3.0, 0.0, -1.0])
    return jnp.asarray(rng.standard_normal(shape) * spread + mean, dtype)


def draw_variables(seed=1):
    rng = np.random.default_rng(seed)
    vector = lambda low: jnp.asarray(rng.uniform(low, 2, 3), jnp.float32)  # noqa: E731
    return {
        "params": {"scale": vector(0.5), "bias": vector(-1)},
        "batch_stats": {"mean": vector(-1), "var": vector(0.5)},
    }


def ours(axis_name=None):
    module = BatchNorm(axis_name)
    return lambda v, x, train: module.apply(v, x, train, mutable=["batch_stats"])


def flax(axis_name=None, dtype=jnp.float32):
    def apply(variables, x, train):
        module = nn.BatchNorm(
            not train, momentum=0.9, epsilon=1e-5, axis_name=axis_name, dtype=dtype
        )
        return module.apply(variables, x, mutable=["batch_stats"])

    return apply


def value_and_gradients(apply, x, weights, train=True):
    """The result, the statistics, and gradients of a weighted sum, through a ReLU."""

    def loss(params, x):
        y, updated = apply(draw_variables() | {"params": params}, x, train)
        return jnp.sum(weights * y.astype(jnp.float32) ** 2), (y, updated)

    params = draw_variables()["params"]
    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)


def assert_close(found, wanted, tolerance):
    """Equal within a share of each array's largest number."""

    def check(a, b):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())

    jax.tree.map(check, found, wanted)


@pytest.mark.parametrize("train", [False, True])
def test_equals_flax(train):
    x, weights = draw(), draw(seed=2)
    found = value_and_gradients(ours(), x, weights, train)
    assert_close(found, value_and_gradients(flax(), x, weights, train), 1e-4)


def test_starts_as_flax_does():
    x, key = draw(), jax.random.key(0)
    theirs = nn.BatchNorm(use_running_average=False).init(key, x)
    assert_close(BatchNorm().init(key, x, True), theirs, 0)


@pytest.mark.parametrize("train", [False, True])
def test_computes_in_float32_and_keeps_the_type(train):
    x, weights = draw(dtype=jnp.bfloat16), draw(seed=2)
    (_, (y, updated)), (_, of_x) = value_and_gradients(ours(), x, weights, train)
    assert y.dtype == of_x.dtype == jnp.bfloat16
    assert updated["batch_stats"]["mean"].dtype == jnp.float32
    wide = value_and_gradients(ours(), x.astype(jnp.float32), weights, train)[0][1]
    assert_close(updated, wide[1], 1e-6)
    assert_close(y, wide[0], 2e-2)


def test_averages_over_devices_as_flax_does():
    devices = min(4, jax.local_device_count())
    x, weights = draw((devices, *SHAPE)), draw((devices, *SHAPE), seed=2)

    def mapped(make):
        return jax.pmap(lambda x, w: value_and_gradients(make("batch"), x, w), axis_name="batch")(
            x, weights
        )

    assert_close(mapped(ours), mapped(flax), 1e-4)
    # And the devices together normalise as one that sees all.
    whole = value_and_gradients(ours(), x.reshape(-1, *SHAPE[1:]), weights.reshape(-1, *SHAPE[1:]))
    (_, (y, updated)), (_, of_x) = mapped(ours)
    assert_close(y.reshape(whole[0][1][0].shape), whole[0][1][0], 1e-4)
    assert_close(jax.tree.map(lambda v: v[0], updated), whole[0][1][1], 1e-5)
    assert_close(of_x.reshape(whole[1][1].shape), whole[1][1], 1e-4)


def test_a_constant_channel_is_finite():
    x = jnp.full(SHAPE, 1e3, jnp.float32)
    found = value_and_gradients(ours(), x, draw(seed=2))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_and_its_gradient(dtype):
    x = jnp.asarray([[-2.0, -0.0, 0.0, 3.0]], dtype)
    g = jnp.asarray([[5.0, 6.0, 7.0, 8.0]], dtype)
    for each in (relu, nn.relu):
        y, pull = jax.vjp(each, x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(np.asarray(y, np.float32), [[0, 0, 0, 3]])
        np.testing.assert_array_equal(np.asarray(pull(g)[0], np.float32), [[0, 0, 0, 8]])


def test_seeds_can_be_mapped_over():
    x, weights = draw(), draw(seed=2)
    both = jax.vmap(lambda x: value_and_gradients(ours(), relu(x), weights))(jnp.stack([x, -x]))
    for index, each in enumerate((x, -x)):
        wanted = value_and_gradients(ours(), relu(each), weights)
        assert_close(jax.tree.map(lambda v, i=index: v[i], both), wanted, 1e-4)


@pytest.mark.parametrize("runs", [None, 2])
def test_a_sum_of_pairs_is_two_sums(runs):
    shape = SHAPE if runs is None else (runs, *SHAPE)
    x, y = draw(shape), draw(shape, seed=1)
    found, wanted = (
        jax.jit(sums if runs is None else jax.vmap(sums))(x, y)
        for sums in (norm._sum_of_pairs, norm._two_sums)
    )
    assert_close(found, wanted, 1e-6)


def lowered_for(platform):
    """The program of a normalised ReLU and its gradient, for a platform that need not be there."""

    def loss(params, x):
        y, _ = ours()(draw_variables() | {"params": params}, x, True)
        return jnp.sum(y**2)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    arguments = (draw_variables()["params"], draw())
    return export.export(gradient, platforms=[platform])(*arguments).mlir_module()


@pytest.mark.parametrize(
    ("platform", "pairs", "barriers"),
    [("cuda", 2, True), ("rocm", 2, True), ("cpu", 0, True), ("tpu", 0, False)],
)
def test_each_platform_gets_the_form_that_its_compiler_does_best_with(platform, pairs, barriers):
    text = lowered_for(platform)
    assert len(re.findall(r"stablehlo\.reduce\(.*\), \(", text)) == pairs
    assert ("optimization_barrier" in text) == barriers
