"""Blocks that hold a head of their own: that of the configurations whose last block they are."""

import jax
import numpy as np
import pytest

from accordion_jax.depth import make_ladder
from accordion_jax.models import ResNet, build, describe

SIZES, CHANNELS = (2, 1, 1), (4, 8, 8)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    return ResNet(10, SIZES, CHANNELS, own_heads=True)


@pytest.fixture(scope="module")
def variables(network):
    return jax.device_get(network.init(jax.random.key(0), IMAGES))


def answers(network, variables, masks, **more):
    found = network.apply(variables, IMAGES, skip_masks=masks, method="truncations", **more)
    return np.asarray(found[0] if more else found)


def last_of(mask):
    kept = [i for i, skip in enumerate(mask) if not skip]
    return kept[-1] if kept else -1


def changed(variables, path):
    """The variables, with another bias of a head."""
    tree = jax.tree.map(np.asarray, variables)
    unit = tree["params"]
    for name in path:
        unit = unit[name]
    unit["bias"] = unit["bias"] + 1
    return tree


def test_a_head_has_the_channels_of_its_block(network, variables):
    shapes = {
        unit: variables["params"][unit]["head"]["kernel"].shape for unit in network.block_names
    }
    assert list(shapes.values()) == [(4, 10), (4, 10), (8, 10), (8, 10)]
    assert variables["params"]["head"]["kernel"].shape == (4, 10)


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_a_configuration_answers_with_the_head_of_its_last_block(network, variables, scheme):
    masks = make_ladder(scheme, SIZES).skip_masks
    before = answers(network, variables, masks)
    for i, unit in enumerate((None, *network.block_names), -1):
        path = ("head",) if unit is None else (unit, "head")
        after = answers(network, changed(variables, path), masks)
        for mask, one, other in zip(masks, before, after, strict=True):
            wanted = one + 1 if last_of(mask) == i else one
            np.testing.assert_allclose(other, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
@pytest.mark.parametrize("scan", [False, True])
def test_one_pass_equals_each_alone(network, variables, scheme, scan):
    masks = make_ladder(scheme, SIZES).skip_masks
    run = build(describe(network), scan_stages=scan)
    alone = [network.apply(variables, IMAGES, skip_mask=mask) for mask in masks]
    np.testing.assert_allclose(answers(run, variables, masks), alone, rtol=1e-5, atol=1e-5)


def test_training_moves_the_heads_of_the_masks_alone(network, variables):
    masks = make_ladder("coml", SIZES).skip_masks[1:3]

    def total(params):
        tree = {**variables, "params": params}
        return answers_sum(network, tree, masks)

    gradients = jax.grad(total)(variables["params"])
    moved = {
        unit: bool(np.any(np.asarray(gradients[unit]["head"]["kernel"])))
        for unit in network.block_names
    }
    assert list(moved.values()) == [True, True, False, False]
    assert not np.any(np.asarray(gradients["head"]["kernel"]))


def answers_sum(network, variables, masks):
    found, _ = network.apply(
        variables,
        IMAGES,
        skip_masks=masks,
        train=True,
        mutable=["batch_stats"],
        method="truncations",
    )
    return found.sum()


def test_it_adopts_a_network_of_one_head_with_the_same_answers(network):
    one = ResNet(10, SIZES, CHANNELS)
    trained = jax.device_get(one.init(jax.random.key(1), IMAGES))
    masks = make_ladder("coml", SIZES).skip_masks
    adopted = network.adopt(trained)
    np.testing.assert_allclose(
        answers(network, adopted, masks), answers(one, trained, masks), rtol=1e-5, atol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, network.adopt(adopted), adopted)
    jax.tree.map(np.testing.assert_array_equal, one.adopt(trained), trained)


@pytest.mark.parametrize("other", [ResNet(10, SIZES, (4, 8, 16)), ResNet(7, SIZES, CHANNELS)])
def test_it_leaves_another_network_as_it_is(network, other):
    trained = jax.device_get(other.init(jax.random.key(1), IMAGES))
    jax.tree.map(np.testing.assert_array_equal, network.adopt(trained), trained)


def test_a_description_says_it_where_it_is_so(network):
    assert describe(network)["arguments"]["own_heads"] is True
    assert build(describe(network)) == network
    assert "own_heads" not in describe(ResNet(10, SIZES, CHANNELS))["arguments"]


@pytest.mark.parametrize("value", [1, "yes", None])
def test_what_is_neither_is_refused(value):
    with pytest.raises(ValueError, match=r"own_heads=.* must be True or False"):
        ResNet(10, SIZES, CHANNELS, own_heads=value)
