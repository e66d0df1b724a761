"""The ResNet: the paper's numbers, a plain reference, and skipping that costs nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from networks import CHANNELS, IMAGE_SHAPE, equations, perturbed_variables, random_images
from networks import tiny_resnet as tiny

from accordion_jax.depth import make_ladder
from accordion_jax.models import ResNet

CIFAR = (32, 32, 3)
SIZES = (2, 1, 1)
MODEL = tiny(SIZES)
VARIABLES = perturbed_variables(MODEL)
IMAGES = random_images(4)
FULL = (False,) * sum(SIZES)
masks = st.tuples(*[st.booleans()] * sum(SIZES))


def shapes_of(model, image_shape=CIFAR, batch=1):
    """Shapes of variables and images: enough to trace a network, and nothing is computed."""
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images), images


def alone(skip_mask, variables=VARIABLES, images=IMAGES, **arguments):
    return MODEL.apply(variables, images, skip_mask=skip_mask, **arguments)


def together(skip_masks, variables=VARIABLES, images=IMAGES, **arguments):
    return MODEL.apply(variables, images, skip_masks=skip_masks, method="truncations", **arguments)


def convolutions(model, skip_masks, image_shape=CIFAR, train=False):
    """How many convolutions the one-pass program of these masks has."""
    mutable = ["batch_stats"] if train else False
    program = functools.partial(
        model.apply, skip_masks=skip_masks, method="truncations", train=train, mutable=mutable
    )
    jaxpr = jax.make_jaxpr(program)(*shapes_of(model, image_shape))
    return sum(1 for _ in equations(jaxpr.jaxpr, "conv_general_dilated"))


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# The paper's numbers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "conv_parameters", "macs"),
    [(18, 1_741_824, 255_246_976), (9, 870_912, None), (3, 290_304, None)],
)
def test_the_papers_numbers(n, conv_parameters, macs):
    model = ResNet(10, (n, n, n))
    variables, _ = shapes_of(model)
    params = variables["params"]
    assert len(model.block_names) == len(set(model.block_names)) == 3 * n
    assert params.keys() == {*model.base_names, *model.block_names}
    kernels = [
        params[block][conv]["kernel"] for block in model.block_names for conv in ("conv1", "conv2")
    ]
    assert sum(kernel.size for kernel in kernels) == conv_parameters
    # He et al. 2016: 6n+2 weighted layers, of which one is the head.
    weighted = [x for x in jax.tree.leaves(params) if x.ndim in (2, 4)]
    assert len(weighted) == 6 * n + 2
    unit_macs = model.unit_macs(CIFAR)
    assert unit_macs.keys() == params.keys()
    # "All blocks cost the same 2 x 2.36 M MACs", in every stage.
    assert {unit_macs[block] for block in model.block_names} == {2 * 2_359_296}
    assert macs is None or sum(unit_macs.values()) == macs


def test_the_full_resnet110_has_a_convolution_a_layer():
    # 110 layers: 109 convolutions and the head.
    assert convolutions(ResNet(10), ((False,) * 54,)) == 1 + 2 * 54 == 109


@pytest.mark.parametrize("train", [False, True])
def test_equal_blocks_are_traced_and_lowered_once(train):
    mutable = ["batch_stats"] if train else False
    for n in (2, 5):
        model = ResNet(10, (n, n, n))
        program = functools.partial(model.apply, train=train, mutable=mutable)
        text = jax.jit(program).lower(*shapes_of(model)).as_text()
        assert text.count("stablehlo.convolution") == 1 + 2 * 3


def test_parameters_and_logits_of_all_units():
    variables, images = shapes_of(ResNet(100))
    assert variables["params"]["head"]["kernel"].shape == (64, 100)
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 3, 16)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(ResNet(100).apply, variables, images)
    assert (logits.shape, logits.dtype) == ((1, 100), jnp.float32)


# A plain reference ---------------------------------------------------------------------------


def reference(variables, images, skip_mask):
    """The network written out in plain operations: He et al. 2016 with pooled transitions."""
    params, stats = variables["params"], variables["batch_stats"]

    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=layout)

    def norm(x, unit, name):
        scale, bias, mean, var = (
            values[unit][name][each].reshape(1, 1, 1, -1)
            for values, each in (
                (params, "scale"),
                (params, "bias"),
                (stats, "mean"),
                (stats, "var"),
            )
        )
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    def layer(x, unit, number=""):
        return norm(conv(x, params[unit][f"conv{number}"]["kernel"]), unit, f"norm{number}")

    def halve(x, channels):
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
        missing = jnp.zeros((*x.shape[:3], channels - x.shape[3]), x.dtype)
        return jnp.concatenate([x, missing], axis=3)

    x = jax.nn.relu(layer(images, "stem"))
    skips = iter(skip_mask)
    for stage, size in enumerate(SIZES):
        if stage:
            x = halve(x, CHANNELS[stage])
        for block in range(1, size + 1):
            if next(skips):
                continue
            unit = f"stage{stage + 1}_block{block:02d}"
            y = jax.nn.relu(layer(x, unit, 1))
            x = jax.nn.relu(layer(y, unit, 2) + x)
    pooled = x.reshape(x.shape[0], -1, x.shape[3]).mean(axis=1)
    return pooled @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1)


def test_a_full_mask_is_the_plain_network():
    expected = reference(VARIABLES, IMAGES, FULL)
    assert float(jnp.ptp(expected)) > 0.1, "a constant would prove nothing"
    np.testing.assert_allclose(alone(FULL), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(alone(None), alone(FULL))


@settings(max_examples=16)
@given(masks)
def test_a_mask_leaves_its_blocks_out_of_the_plain_network(mask):
    np.testing.assert_allclose(
        alone(mask), reference(VARIABLES, IMAGES, mask), rtol=1e-5, atol=1e-5
    )


# Skipping ------------------------------------------------------------------------------------


def spoilt(mask):
    """Variables whose skipped blocks hold nothing but NaN."""
    skipped = {name for name, skip in zip(MODEL.block_names, mask, strict=True) if skip}
    return {
        kind: {
            unit: jax.tree.map(lambda x: x * jnp.nan, tree) if unit in skipped else tree
            for unit, tree in units.items()
        }
        for kind, units in VARIABLES.items()
    }


@settings(max_examples=16)
@given(masks, st.booleans())
def test_a_skipped_block_does_not_matter(mask, train):
    mutable = ["batch_stats"] if train else False
    results = [
        alone(mask, variables, train=train, mutable=mutable)
        for variables in (VARIABLES, spoilt(mask))
    ]
    logits = [result[0] if train else result for result in results]
    assert np.isfinite(logits[0]).all()
    np.testing.assert_array_equal(*logits)


@settings(max_examples=16)
@given(masks)
def test_a_skipped_block_need_not_be_there(mask):
    kept = {name for name, skip in zip(MODEL.block_names, mask, strict=True) if not skip} | set(
        MODEL.base_names
    )
    variables = {
        kind: {unit: tree for unit, tree in units.items() if unit in kept}
        for kind, units in VARIABLES.items()
    }
    np.testing.assert_array_equal(alone(mask, variables), alone(mask))


@settings(max_examples=16)
@given(masks)
def test_a_skipped_block_keeps_its_running_statistics(mask):
    _, updated = alone(mask, train=True, mutable=["batch_stats"])
    for name, skip in zip((*MODEL.block_names, "stem"), (*mask, False), strict=True):
        old, new = VARIABLES["batch_stats"][name], updated["batch_stats"][name]
        if skip:
            assert_trees_equal(old, new)
        else:
            changed = jax.tree.map(lambda a, b: bool((a != b).all()), old, new)
            assert all(jax.tree.leaves(changed))


@settings(max_examples=20)
@given(masks, st.booleans())
def test_a_skipped_block_costs_nothing(mask, train):
    kept = mask.count(False)
    assert convolutions(MODEL, (mask,), IMAGE_SHAPE, train) == 1 + 2 * kept


@pytest.mark.parametrize("train", [False, True])
def test_running_statistics_matter_in_evaluation_only(train):
    others = VARIABLES | {
        "batch_stats": jax.tree.map(lambda x: x * 3 + 1, VARIABLES["batch_stats"])
    }
    results = [
        alone(FULL, variables, train=train, mutable=["batch_stats"])[0]
        for variables in (VARIABLES, others)
    ]
    assert np.array_equal(*results) == train


def test_running_statistics_move_a_tenth_of_the_way():
    _, updated = alone(FULL, train=True, mutable=["batch_stats"])
    kernel = VARIABLES["params"]["stem"]["conv"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(IMAGES, kernel, (1, 1), "SAME", dimension_numbers=layout)
    old, new = (each["batch_stats"]["stem"]["norm"] for each in (VARIABLES, updated))
    for name, value in (("mean", x.mean((0, 1, 2))), ("var", x.var((0, 1, 2)))):
        expected = 0.9 * old[name] + 0.1 * value
        np.testing.assert_allclose(new[name], expected, rtol=1e-4, atol=1e-6)


# Many masks in one pass ----------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 1), (1, 2)])
def test_one_pass_equals_each_configuration_alone(scheme, sizes):
    model = ResNet(10, sizes, CHANNELS[: len(sizes)])
    variables = perturbed_variables(model)
    skip_masks = make_ladder(scheme, sizes).skip_masks
    one_pass = jax.jit(
        lambda variables, images: model.apply(
            variables, images, skip_masks=skip_masks, method="truncations"
        )
    )
    logits = one_pass(variables, IMAGES)
    assert (logits.shape, logits.dtype) == ((len(skip_masks), 4, 10), jnp.float32)
    for each, mask in zip(logits, skip_masks, strict=True):
        expected = model.apply(variables, IMAGES, skip_mask=mask)
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-5)
    assert len({each.tobytes() for each in np.asarray(logits)}) == len(skip_masks)


@settings(max_examples=12)
@given(st.lists(masks, min_size=1, max_size=6))
def test_one_pass_of_any_masks_equals_each_alone(skip_masks):
    # Not compiled as a whole, each operation is the same program in both: equal bit for bit.
    logits = together(tuple(skip_masks))
    for each, mask in zip(logits, skip_masks, strict=True):
        np.testing.assert_array_equal(each, alone(mask))


def test_one_pass_of_a_prefix_ladder_trains_as_the_full_network():
    skip_masks = make_ladder("coml", SIZES).skip_masks
    logits, updated = together(skip_masks, train=True, mutable=["batch_stats"])
    for each, mask in zip(logits, skip_masks, strict=True):
        expected, stats = alone(mask, train=True, mutable=["batch_stats"])
        np.testing.assert_array_equal(each, expected)
        for unit in ("stem", *MODEL.block_names[: mask.count(False)]):
            assert_trees_equal(stats["batch_stats"][unit], updated["batch_stats"][unit])
    assert_trees_equal(stats, updated)


def test_gradients_of_one_pass_are_the_sum_of_each_alone():
    skip_masks = make_ladder("coml", SIZES).subset([0, 2]).skip_masks

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(params, one_pass):
        variables = VARIABLES | {"params": params}
        if one_pass:
            return jnp.sum(together(skip_masks, variables) ** 2)
        return sum(jnp.sum(alone(mask, variables) ** 2) for mask in skip_masks)

    one, many = (gradient(VARIABLES["params"], way) for way in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, many)


def test_one_pass_of_all_prefixes_has_the_convolutions_of_one_network():
    ladder = make_ladder("coml", (18, 18, 18))
    assert convolutions(ResNet(10), ladder.skip_masks) == 1 + 2 * 54


def test_one_pass_of_blockcoml_shares_the_first_stage():
    # Configuration k runs its own k blocks of stages 2 and 3; the 18 of stage 1 are shared.
    ladder = make_ladder("blockcoml", (18, 18, 18))
    assert sum(each.depth for each in ladder) == 3 * 171
    assert convolutions(ResNet(10), ladder.skip_masks) == 1 + 2 * (18 + 2 * 171)


def test_a_mask_given_twice_is_computed_once():
    mask = (False, True, False, True)
    logits = together((mask, (False,) * 4, mask))
    np.testing.assert_array_equal(logits[0], logits[2])
    assert convolutions(MODEL, (mask, mask), IMAGE_SHAPE) == 1 + 2 * 2


# Precision, devices, errors ------------------------------------------------------------------


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    model = tiny(dtype=jnp.bfloat16)
    # Flax's batch norm takes bfloat16 features and float32 statistics together.
    with jax.numpy_dtype_promotion("standard"):
        variables, images = shapes_of(model, IMAGE_SHAPE)
        program = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        outputs = jax.eval_shape(program, variables, images)
        jaxpr = jax.make_jaxpr(program)(variables, images).jaxpr
        logits = jax.jit(model.apply)(VARIABLES, IMAGES)
    assert {x.dtype for x in jax.tree.leaves((variables, outputs))} == {jnp.dtype("float32")}
    for primitive in ("conv_general_dilated", "dot_general"):
        dtypes = {x.aval.dtype for each in equations(jaxpr, primitive) for x in each.invars}
        assert dtypes == {jnp.dtype("bfloat16")}
    # Eight bits of mantissa: close, and not the same.
    np.testing.assert_allclose(logits, alone(FULL), atol=0.1)
    assert float(jnp.abs(logits - alone(FULL)).max()) > 1e-4


@pytest.mark.parametrize("cross_replica", [False, True])
def test_batch_norm_over_devices_sees_the_whole_batch(cross_replica):
    model = tiny(SIZES, axis_name="batch" if cross_replica else None)
    # The axis that vmap names stands in for two devices.
    train = functools.partial(model.apply, VARIABLES, train=True, mutable=["batch_stats"])
    logits, _ = jax.jit(jax.vmap(train, axis_name="batch"))(IMAGES.reshape(2, 2, *IMAGE_SHAPE))
    expected, _ = alone(FULL, train=True, mutable=["batch_stats"])
    close = np.allclose(logits.reshape(4, 10), expected, rtol=1e-3, atol=1e-3)
    assert close == cross_replica


@pytest.mark.parametrize("length", [3, 5])
def test_a_mask_of_another_length_is_refused(length):
    message = rf"skip_mask has {length} entries; stage_sizes=\(2, 1, 1\) has 4 blocks"
    with pytest.raises(ValueError, match=message):
        alone((False,) * length)
    with pytest.raises(ValueError, match=message):
        together(((False,) * 4, (True,) * length))


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 6, 8, 2), (2, 8, 2, 2), (2, 7, 7, 2)])
def test_images_that_cannot_be_halved_are_refused(shape):
    with pytest.raises(ValueError, match=r"images of shape \(2, .*divisible by 4"):
        alone(None, images=jnp.zeros(shape))


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((4, 8, 8), r"channels=\(4, 8, 8\) .*stage_sizes=\(1, 1\) has 2"),
        ((8, 4), r"channels=\(8, 4\) must not shrink"),
    ],
)
def test_channels_that_do_not_fit_are_refused(channels, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ResNet(10, (1, 1), channels).init, jax.random.key(0), IMAGES)
