"""Stages in a loop: the same function and the same variables as block after block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import equations, perturbed_variables, random_images, tiny_resnet

from accordion_jax.depth import make_ladder
from accordion_jax.models import ResNet

SIZES = (4, 2, 1)
IMAGES = random_images(4)
UNROLLED, SCANNED = (tiny_resnet(SIZES, scan_stages=scan) for scan in (False, True))
VARIABLES = perturbed_variables(UNROLLED)
TARGET = jnp.asarray(np.random.default_rng(1).normal(size=(4, 10)), jnp.float32)
MASKS = {
    "all": (False,) * 7,
    "gaps": (False, True, False, False, True, False, False),
    "a stage without blocks": (True, False, True, False, True, True, False),
    "one block a stage": (True, True, False, True, True, False, False),
    "the base": (True,) * 7,
}
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)


def kept(model, mask):
    """The variables of what a mask keeps, and no others."""
    names = {name for name, skip in zip(model.block_names, mask, strict=True) if not skip}
    names |= set(model.base_names)
    return {
        kind: {unit: tree for unit, tree in units.items() if unit in names}
        for kind, units in VARIABLES.items()
    }


def convolutions(model, skip_masks, train=False):
    """How many convolutions the program of these masks has, wherever in it."""
    program = functools.partial(
        model.apply,
        skip_masks=skip_masks,
        method="truncations",
        train=train,
        mutable=["batch_stats"] if train else False,
    )
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    jaxpr = jax.make_jaxpr(program)(variables, images).jaxpr
    return sum(1 for _ in equations(jaxpr, "conv_general_dilated"))


def trained(model, mask):
    """Loss, gradients and running statistics of a step in training."""

    def loss_of(params, stats):
        variables = {"params": params, "batch_stats": stats}
        logits, updated = model.apply(
            variables, IMAGES, skip_mask=mask, train=True, mutable=["batch_stats"]
        )
        return jnp.mean((logits - TARGET) ** 2), (logits, dict(updated["batch_stats"]))

    variables = kept(model, mask)
    step = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    return step(variables["params"], variables["batch_stats"])


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_outputs_gradients_and_statistics_are_those_of_the_unrolled_network(mask):
    expected, found = (trained(model, mask) for model in (UNROLLED, SCANNED))
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    jax.tree.map(close, found, expected)
    gradients = [np.abs(x).max() for x in jax.tree.leaves(found[1])]
    assert min(gradients) > 1e-4, "without a gradient nothing would be compared"
    evaluated = [
        jax.jit(functools.partial(model.apply, skip_mask=mask))(kept(model, mask), IMAGES)
        for model in (UNROLLED, SCANNED)
    ]
    close(*evaluated)


def test_statistics_of_skipped_blocks_are_handed_back_as_they_were():
    mask = MASKS["gaps"]
    _, updated = SCANNED.apply(VARIABLES, IMAGES, skip_mask=mask, train=True, mutable="batch_stats")
    for name, skip in zip(SCANNED.block_names, mask, strict=True):
        old, new = VARIABLES["batch_stats"][name], updated["batch_stats"][name]
        same = jax.tree.map(lambda a, b: bool((a == b).all()), old, new)
        assert all(jax.tree.leaves(same)) == skip, name


def test_the_initial_variables_are_the_same_bit_for_bit():
    one, other = (model.init(jax.random.key(3), IMAGES) for model in (UNROLLED, SCANNED))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("train", [False, True])
def test_a_program_has_one_block_a_stage_however_many_it_keeps(train):
    for n in (2, 5, 18):
        model = ResNet(10, (n, n, n), scan_stages=True)
        assert convolutions(model, ((False,) * 3 * n,), train) == 1 + 3 * 2
        gaps = (False, *(True,) * (n - 2), False) * 3
        assert convolutions(model, (gaps,), train) == 1 + 3 * 2


def test_a_single_block_is_not_scanned():
    mask = MASKS["one block a stage"]
    jaxpr = jax.make_jaxpr(functools.partial(SCANNED.apply, skip_mask=mask))(VARIABLES, IMAGES)
    assert not list(equations(jaxpr.jaxpr, "scan"))


SWEEPS = {
    "coml": make_ladder("coml", SIZES).skip_masks,
    "blockcoml": make_ladder("blockcoml", SIZES[::-1]).skip_masks,
    "some depths": make_ladder("coml", SIZES).subset([1, 3, 4, 7]).skip_masks,
    "any": (*MASKS.values(), MASKS["gaps"]),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_many_masks_in_one_pass_equal_the_unrolled_ones(name):
    masks = SWEEPS[name]
    sizes = SIZES[::-1] if name == "blockcoml" else SIZES
    models = [tiny_resnet(sizes, scan_stages=scan) for scan in (False, True)]
    variables = perturbed_variables(models[0])
    expected, found = (
        jax.jit(functools.partial(model.apply, skip_masks=masks, method="truncations"))(
            variables, IMAGES
        )
        for model in models
    )
    close(found, expected)
    assert len({each.tobytes() for each in np.asarray(found)}) == len(set(masks))


def test_a_sweep_of_all_prefixes_has_one_block_a_stage_too():
    model = ResNet(10, (5, 5, 5), scan_stages=True)
    assert convolutions(model, make_ladder("coml", (5, 5, 5)).skip_masks) == 1 + 3 * 2


def test_batch_norm_over_devices_sees_the_whole_batch():
    model = tiny_resnet(SIZES, axis_name="batch", scan_stages=True)
    train = functools.partial(
        model.apply, VARIABLES, skip_mask=MASKS["gaps"], train=True, mutable=["batch_stats"]
    )
    # The axis that vmap names stands in for two devices.
    two = jax.jit(jax.vmap(train, axis_name="batch"))(IMAGES.reshape(2, 2, *IMAGES.shape[1:]))
    logits, updated = UNROLLED.apply(
        VARIABLES, IMAGES, skip_mask=MASKS["gaps"], train=True, mutable=["batch_stats"]
    )
    wide = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    wide(two[0].reshape(4, 10), logits)
    jax.tree.map(lambda a, b: wide(a[0], b), two[1], updated)


def test_bfloat16_stays_bfloat16_in_the_loop():
    model = tiny_resnet(SIZES, dtype=jnp.bfloat16, scan_stages=True)
    program = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    jaxpr = jax.make_jaxpr(program)(VARIABLES, IMAGES).jaxpr
    assert len(list(equations(jaxpr, "scan"))) == 2
    for equation in equations(jaxpr, "conv_general_dilated"):
        assert {x.aval.dtype for x in equation.invars} == {jnp.dtype("bfloat16")}
