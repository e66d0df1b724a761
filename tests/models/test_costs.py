"""Costs: equal to what the program computes and to what would be sent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import IMAGE_SHAPE, equations, perturbed_variables, tiny_resnet

from accordion_jax.depth import UnitCost, make_ladder, make_row
from accordion_jax.models import ResNet
from accordion_jax.models.costs import unit_costs

CIFAR = (32, 32, 3)


def shapes_of(model, image_shape):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images), images


def rows_of(model, variables, image_shape, scheme="coml"):
    """(configuration, row) for each of a ladder, the errors of no interest."""
    base, blocks = unit_costs(model, variables, image_shape)
    ladder = make_ladder(scheme, model.stage_sizes)
    measured = {"examples": 1, "errors": 0, "cross_entropy": 0.0}
    return [(each, make_row(ladder, each, base=base, blocks=blocks, **measured)) for each in ladder]


def macs_of(jaxpr):
    """Multiply-accumulates of a program's convolutions and products."""
    macs = 0
    for equation in equations(jaxpr, "conv_general_dilated"):
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        layout = equation.params["dimension_numbers"].rhs_spec
        output_channels = kernel.shape[layout[0]]
        macs += out.size * kernel.size // output_channels
    for equation in equations(jaxpr, "dot_general"):
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        (contracted, _), _ = equation.params["dimension_numbers"]
        macs += out.size * int(np.prod([left.shape[axis] for axis in contracted]))
    return macs


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_the_tables_macs_are_those_of_the_program(scheme):
    model = tiny_resnet((2, 1, 1))
    variables, images = shapes_of(model, IMAGE_SHAPE)
    for configuration, row in rows_of(model, variables, IMAGE_SHAPE, scheme):
        mask = configuration.skip_mask
        jaxpr = jax.make_jaxpr(lambda v, x, mask=mask: model.apply(v, x, skip_mask=mask))
        assert macs_of(jaxpr(variables, images).jaxpr) == row.macs, configuration


def test_macs_of_resnet110_are_those_of_the_program_and_of_the_paper():
    model = ResNet(10)
    variables, images = shapes_of(model, CIFAR)
    rows = [row for _, row in rows_of(model, variables, CIFAR)]
    assert macs_of(jax.make_jaxpr(model.apply)(variables, images).jaxpr) == rows[-1].macs
    assert round(rows[-1].macs / 1e6, 1) == 255.2
    # Every block costs the same.
    assert set(np.diff([row.macs for row in rows])) == {4_718_592}


def products_without_padding(model, kept, image_shape):
    """What is left of the multiply-accumulates when no product with a padded zero is counted.

    Along a side of s positions, a kernel of three reaches 3s - 2 real ones: the first and the last
    position each have a neighbour too few.
    """
    height, width, _ = image_shape
    macs = model.unit_macs(image_shape)
    stages = [stage for stage, size in enumerate(model.stage_sizes) for _ in range(size)]
    total = macs["head"]
    for unit, stage in [("stem", 0), *((model.block_names[i], stages[i]) for i in kept)]:
        h, w = height >> stage, width >> stage
        share = (3 * h - 2) * (3 * w - 2) / (9 * h * w)
        total += round(macs[unit] * share)
    return total


@pytest.mark.parametrize(
    ("model", "image_shape", "depths"),
    [
        (tiny_resnet((2, 1, 1)), IMAGE_SHAPE, range(5)),
        (ResNet(10), CIFAR, (0, 18, 36, 54)),
    ],
    ids=["tiny", "resnet110"],
)
def test_xlas_own_count_agrees(model, image_shape, depths):
    """Two operations a multiply-accumulate, and the element-wise ones, which are bounded.

    Each output of a convolution goes through batch norm (minus the mean, times the factor, plus the
    bias: 3) and a ReLU (1); every second one meets the shortcut (1); and each value is at most once
    pooled (1). So between 4 and 6 an output. To that come a few for each channel (the factor is
    scale / sqrt(var + epsilon)) and for each logit. On ResNet-110 all this is one per cent.
    """
    variables, images = shapes_of(model, image_shape)
    rows = dict(enumerate(rows_of(model, variables, image_shape)))
    for depth in depths:
        configuration, row = rows[depth]
        mask = configuration.skip_mask
        program = jax.jit(lambda v, x, mask=mask: model.apply(v, x, skip_mask=mask))
        flops = program.lower(variables, images).cost_analysis()["flops"]
        jaxpr = jax.make_jaxpr(program)(variables, images).jaxpr
        outputs = [each.outvars[0].aval for each in equations(jaxpr, "conv_general_dilated")]
        activations = sum(x.size for x in outputs)
        channels = sum(x.shape[-1] for x in outputs)
        products = products_without_padding(model, configuration.blocks, image_shape)
        rest = flops - 2 * products
        assert 4 * activations <= rest <= 6 * activations + 4 * channels + 2 * model.num_classes
        if image_shape == CIFAR and depth:
            # Padding and the rest are small beside what the table counts.
            assert flops == pytest.approx(2 * row.macs, rel=0.09)


def test_padding_is_what_xla_leaves_out():
    # Of one convolution alone, with nothing element-wise, the counts are equal.
    x, kernel = jnp.zeros((1, 8, 4, 3)), jnp.zeros((3, 3, 3, 5))

    def conv(x, kernel, padding):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout)

    def flops(padding):
        program = jax.jit(conv, static_argnums=2)
        return program.lower(x, kernel, padding).cost_analysis()["flops"]

    assert flops("SAME") == 2 * (3 * 8 - 2) * (3 * 4 - 2) * 3 * 5
    assert flops("VALID") == 2 * (8 - 2) * (4 - 2) * 9 * 3 * 5


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_bytes_and_parameters_are_those_of_the_arrays_that_are_sent(scheme):
    model = tiny_resnet((2, 1, 1))
    variables = jax.tree.map(np.asarray, perturbed_variables(model))
    for configuration, row in rows_of(model, variables, IMAGE_SHAPE, scheme):
        units = [*model.base_names, *(model.block_names[i] for i in configuration.blocks)]
        params = [x for unit in units for x in jax.tree.leaves(variables["params"][unit])]
        stats = [
            x for unit in units for x in jax.tree.leaves(variables["batch_stats"].get(unit, {}))
        ]
        assert row.size_bytes == sum(len(x.tobytes()) for x in params + stats)
        assert row.parameters == sum(x.size for x in params)
        assert row.mbit * 1e6 == pytest.approx(8 * row.size_bytes)
    assert row.size_bytes == sum(x.nbytes for x in jax.tree.leaves(variables))


def test_bytes_follow_the_precision_of_the_arrays():
    model = tiny_resnet((1, 1, 1))
    variables = perturbed_variables(model)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    for full, halved in zip(
        rows_of(model, variables, IMAGE_SHAPE), rows_of(model, half, IMAGE_SHAPE), strict=True
    ):
        assert halved[1].size_bytes * 2 == full[1].size_bytes
        assert halved[1].parameters == full[1].parameters


def test_shapes_cost_what_their_arrays_do():
    model = tiny_resnet((1, 1, 1))
    shapes, _ = shapes_of(model, IMAGE_SHAPE)
    arrays = perturbed_variables(model)
    assert unit_costs(model, shapes, IMAGE_SHAPE) == unit_costs(model, arrays, IMAGE_SHAPE)


def test_the_papers_shares():
    # "66 % of the model" without stage 3 counts blocks; of the bytes it is 24 %.
    model = ResNet(100)
    variables, _ = shapes_of(model, CIFAR)
    row = dict(enumerate(rows_of(model, variables, CIFAR)))[36][1]
    assert row.stage_blocks == (18, 18, 0)
    assert row.share_of_blocks == pytest.approx(2 / 3)
    assert row.share_of_bytes == pytest.approx(0.24, abs=0.01)


def test_a_model_without_running_statistics_has_only_parameters():
    model = tiny_resnet((1, 1, 1))
    variables = perturbed_variables(model)
    base, blocks = unit_costs(model, {"params": variables["params"]}, IMAGE_SHAPE)
    assert all(cost.size_bytes == 4 * cost.parameters for cost in (base, *blocks))
    assert sum(blocks, base) == UnitCost(
        sum(x.size for x in jax.tree.leaves(variables["params"])),
        sum(x.nbytes for x in jax.tree.leaves(variables["params"])),
        sum(model.unit_macs(IMAGE_SHAPE).values()),
    )
