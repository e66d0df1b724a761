"""Forms of a network's parameters: what each begins with, and which network it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.encodings.integers import Integer
from benchmarks.compositions.forms import (
    Factored,
    Pruned,
    Quantised,
    Whole,
    describe,
    fake_quantise,
    flatten,
    form_of,
    is_block_kernel,
    unflatten,
)
from tests.networks import perturbed_variables, tiny_resnet


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, flatten(perturbed_variables(tiny_resnet())["params"]))


def kernels(params):
    return [path for path in params if is_block_kernel(path)]


FORMS = [
    Whole(),
    Pruned(0.75),
    Factored("spatial", 0.5),
    Factored("channel", 0.25),
    *map(Quantised, (2, 3, 4, 8)),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_stands_for_a_network_of_the_same_shapes(form, params):
    network = form.network(*form.begin(params))
    assert {path: x.shape for path, x in network.items()} == {
        path: x.shape for path, x in params.items()
    }


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_description_gives_the_form_again(form):
    assert form_of(describe(form)) == form


def test_a_form_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"form 'folded' is not known; known: .*'pruned'"):
        form_of({"kind": "folded"})


def test_paths_and_trees_are_inverse(params):
    assert list(flatten(unflatten(params))) == list(params)


@given(share=st.floats(0, 1))
def test_pruning_keeps_the_largest_weights_of_each_layer(params, share):
    begun, masks = Pruned(share).begin(params)
    assert masks.keys() == set(kernels(params))
    kept = np.concatenate([masks[path].reshape(-1) for path in kernels(params)])
    assert np.sum(kept == 0) == round(share * kept.size)
    for path, mask in masks.items():
        sizes = np.abs(params[path])
        assert np.max(sizes[mask == 0], initial=0) <= np.min(sizes[mask == 1], initial=np.inf)
    for path, x in begun.items():
        np.testing.assert_array_equal(x, params[path] * masks.get(path, 1))


def test_what_is_pruned_has_no_gradient_and_stays_zero(params):
    form = Pruned(0.5)
    begun, masks = form.begin(params)
    path = kernels(params)[0]
    gradient = jax.grad(lambda tree: jnp.sum(form.network(tree, masks)[path] ** 2))(begun)[path]
    assert not gradient[masks[path] == 0].any()
    moved = {each: x + 1 for each, x in begun.items()}
    assert not form.network(moved, masks)[path][masks[path] == 0].any()


@pytest.mark.parametrize("way", ["spatial", "channel"])
def test_factors_of_full_rank_are_the_kernel(way, params):
    form = Factored(way, 3.0)
    network = form.network(*form.begin(params))
    for path, x in params.items():
        np.testing.assert_allclose(network[path], x, atol=1e-5)


@pytest.mark.parametrize("way", ["spatial", "channel"])
def test_factors_are_the_nearest_of_their_rank(way):
    # A kernel that has this rank comes back.
    rng = np.random.default_rng(0)
    shapes = {
        "spatial": ((3, 1, 8, 2), (1, 3, 2, 8)),
        "channel": ((3, 3, 8, 2), (1, 1, 2, 8)),
    }[way]
    first, second = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    path = "stage1_block01/conv1/kernel"
    form = Factored(way, 0.25)
    begun, _ = form.begin({path: np.matmul(first, second)})
    assert [x.shape for x in begun.values()] == list(shapes)
    np.testing.assert_allclose(form.network(begun, {})[path], np.matmul(first, second), atol=1e-5)


@pytest.mark.parametrize("way", ["spatial", "channel"])
def test_one_factor_after_the_other_is_their_product(way, params):
    path = kernels(params)[0]
    form = Factored(way, 0.5)
    begun, _ = form.begin({path: params[path]})
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 6, 4)), jnp.float32)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    both = convolve(convolve(images, begun[f"{path}/first"]), begun[f"{path}/second"])
    once = convolve(images, form.network(begun, {})[path])
    np.testing.assert_allclose(both, once, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_quantised_kernels_begin_as_the_encoding_has_them(bits, params):
    form = Quantised(bits)
    network = form.network(*form.begin(params))
    for path, x in params.items():
        if path.endswith("/kernel"):
            encoding = Integer(bits if is_block_kernel(path) else 8)
            np.testing.assert_allclose(
                network[path], encoding.encode(x, None).array(), rtol=1e-5, atol=1e-7
            )
        else:
            np.testing.assert_array_equal(network[path], x)


def test_gradients_go_straight_through_what_is_not_clipped():
    kernel = jnp.asarray([[0.3, -0.3], [5.0, 0.1]], jnp.float32)
    scale, largest = jnp.asarray([1.0, 0.25], jnp.float32), jnp.float32(1)

    def total(kernel, scale):
        return jnp.sum(fake_quantise(kernel, scale, largest))

    of_kernel, of_scale = jax.grad(total, argnums=(0, 1))(kernel, scale)
    np.testing.assert_array_equal(of_kernel, [[1, 0], [0, 1]])
    # Inside, rounded minus exact position; outside, the largest level; slower by a root of two.
    expected = np.array([(0 - 0.3) + 1, -1 + (0 - 0.4)]) / np.sqrt(2)
    np.testing.assert_allclose(of_scale, expected, rtol=1e-5)
