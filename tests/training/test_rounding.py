"""Weights that are rounded in the forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.delivery.bundle.encodings.integers import Integer
from accordion_jax.training.rounding import round_units, rounded
from tests.training.test_loop import assert_same, make


def kernel_of(seed=0, shape=(3, 3, 8, 16)):
    draws = np.random.default_rng(seed)
    return (draws.normal(size=shape) * np.exp(draws.normal(size=shape[-1:]))).astype(np.float32)


@pytest.mark.parametrize("bits", range(1, 9))
def test_it_rounds_as_a_bundle_does(bits):
    kernel = kernel_of()
    ours = np.asarray(rounded(jnp.asarray(kernel), bits))
    theirs = Integer(bits).encode(kernel, None).array()
    error, least = (((each - kernel) ** 2).sum((0, 1, 2)) for each in (ours, theirs))
    # A bundle tries twice as many scales. With few weights a channel, more may be won by chance.
    assert error.sum() <= 1.08 * least.sum()
    assert all(len(np.unique(ours[..., c])) <= 2**bits for c in range(16))
    if bits > 1:
        assert np.abs(ours - theirs).max() <= 0.2 * np.abs(kernel).max()


def test_what_is_exact_in_so_many_bits_stays():
    kernel = kernel_of()
    once = rounded(jnp.asarray(kernel), 4)
    np.testing.assert_allclose(np.asarray(rounded(once, 4)), np.asarray(once), rtol=2e-6)
    zeros = np.zeros((3, 3, 2, 2), np.float32)
    assert not np.asarray(rounded(jnp.asarray(zeros), 4)).any()


def test_its_gradient_is_that_of_the_rounded_weights():
    kernel, inputs = jnp.asarray(kernel_of(shape=(5, 4))), jnp.asarray(kernel_of(1, (7, 5)))

    def loss(weights):
        return jnp.sum(jnp.tanh(inputs @ weights) ** 2)

    found = jax.grad(lambda weights: loss(rounded(weights, 3)))(kernel)
    wanted = jax.grad(loss)(rounded(kernel, 3))
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-6)


def test_units_are_drawn_apart_and_evenly():
    kernel = jnp.asarray(kernel_of(shape=(6, 4)))
    units = {f"block{i}": {"conv": kernel, "bias": kernel[0]} for i in range(40)}
    drawn = jax.jit(lambda key: round_units(units, (2, 4, 32), key))
    first, again, other = (drawn(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_same(first, again)
    each = {bits: np.asarray(rounded(kernel, bits)) for bits in (2, 4)} | {32: np.asarray(kernel)}

    def bits_of(unit):
        (found,) = [b for b, value in each.items() if np.array_equal(value, unit["conv"])]
        np.testing.assert_array_equal(unit["bias"], kernel[0])
        return found

    bits = [[bits_of(tree[unit]) for unit in sorted(units)] for tree in (first, other)]
    assert bits[0] != bits[1]
    counts = [(bits[0] + bits[1]).count(each) for each in (2, 4, 32)]
    assert min(counts) >= 14, counts


def test_a_run_with_32_bits_is_the_one_of_before(tmp_path):
    def trained(**fields):
        experiment = make(train__steps=3, **fields)
        workdir = tmp_path / str(len(list(tmp_path.iterdir())))
        training.claim_workdir(workdir, experiment, write=True)
        return data.unreplicate(training.train(experiment, workdir))

    plain = trained()
    assert_same(trained(train__bits=(32,)), plain)
    few = trained(train__bits=(2,))
    assert not np.array_equal(few.params["head"]["kernel"], plain.params["head"]["kernel"])
    # What is kept are the weights that are rounded, not what they are rounded to.
    assert len(np.unique(few.params["head"]["kernel"][:, 0])) > 3


@pytest.mark.tries("a weight has one of")
def test_other_bits_are_refused():
    for bits in (0, 9, 4.5, True):
        with pytest.raises(ValueError, match=rf"config\.train\.bits has {bits}; a weight has one"):
            make(train__bits=(bits,))
    make(train__bits=(4, 8))
