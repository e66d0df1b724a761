"""More bits within the levels of those that are out already."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accordion_jax.delivery.bundle.encodings.chain import encode_onto
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.integers import Integer
from accordion_jax.delivery.bundle.encodings.nesting import nested
from accordion_jax.delivery.bundle.encodings.scales import quantise
from accordion_jax.delivery.bundle.encodings.segment import encode, read, refine, write
from accordion_jax.delivery.errors import BundleError

SHAPES = st.sampled_from([(3, 3, 4, 5), (3, 3, 1, 1), (7, 2), (1, 1), (6,), (), (0, 3), (3, 0)])
WEIGHTS = st.floats(-4, 4, width=32)


def held(array, bits):
    """What a device holds of an array that was sent in some bits."""
    out = encode({"kernel": array}, {"kernel": f"int{bits}"})
    return read(write(out), Layout.of({"kernel": array}))


@settings(deadline=None, max_examples=150)
@given(st.data(), SHAPES, st.integers(1, 7), st.integers(1, 7))
def test_whatever_is_trained_later_rounds_to_what_is_out(data, shape, few, more):
    many = min(8, few + more)
    arrays = hnp.arrays(np.float32, shape, elements=WEIGHTS)
    first, later = data.draw(arrays), data.draw(arrays)
    coarse = held(first, few)
    (content,) = encode_onto(coarse, [{"kernel": later}], [{"kernel": f"int{many}"}])
    fine = refine(coarse, content).tensors["kernel"]
    assert fine.bits == many
    there = coarse.tensors["kernel"]
    rounded = quantise(fine.array().reshape(there.indices.shape), there.scales, there.levels)
    np.testing.assert_array_equal(rounded, there.indices)
    # Exactly what the encoder meant, and what is out did not change.
    np.testing.assert_array_equal(fine.indices, nested(later, there, many).indices)
    np.testing.assert_array_equal(there.array(), held(first, few).tensors["kernel"].array())


@pytest.mark.parametrize(("few", "many"), [(1, 2), (2, 3), (3, 5), (4, 5), (4, 6), (4, 8), (7, 8)])
def test_it_is_as_near_as_more_bits_can_be(few, many):
    rng = np.random.default_rng(few * 10 + many)
    array = rng.standard_normal((3, 3, 32, 16)).astype(np.float32)
    coarse = Integer(few).encode(array, None)
    moved = array + 0.2 * coarse.scales * rng.uniform(-1, 1, array.shape).astype(np.float32)
    cell = coarse.array()
    inside = np.clip(moved, cell - 0.5 * coarse.scales, cell + 0.5 * coarse.scales)
    off = np.mean(np.square(nested(inside, coarse, many).array() - inside))
    alone = np.mean(np.square(Integer(many).encode(inside, None).array() - inside))
    # One bit more fits the levels of before badly: intervals have one level, two or three. And one
    # bit has no level at zero.
    assert off < (1.6 if many > few + 1 else 2.5 if few > 1 else 4) * alone + 1e-12
    assert off < (0.7 if few > 1 else 0.8) * np.mean(np.square(cell - inside))


def test_a_weight_outside_of_its_cell_gets_the_level_next_to_the_border():
    coarse = Integer(2).encode(np.float32([[-1], [0], [1], [1]]), None)
    assert coarse.indices.ravel().tolist() == [0, 1, 2, 2]
    fine = nested(np.float32([[1], [1], [-1], [1]]), coarse, 4).array().ravel()
    border = coarse.scales[0] / 2
    assert -1.3 * border < fine[0] <= -border
    assert 0.7 * border < fine[1] <= border <= fine[2] < 1.3 * border < fine[3]


@pytest.mark.tries("wanted more, up to 8")
def test_fewer_bits_refine_nothing():
    coarse = Integer(4).encode(np.ones((2, 2), np.float32), None)
    for bits in (3, 4, 9):
        with pytest.raises(BundleError, match=rf"{bits} bits do not refine 4; wanted more, up to"):
            nested(np.ones((2, 2), np.float32), coarse, bits)
    nested(np.ones((2, 2), np.float32), coarse, 5)


@pytest.mark.tries("another encoding in one of them")
def test_what_changes_must_be_sent():
    arrays = {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    layout = Layout.of(arrays)
    first = read(write(encode(arrays, {"kernel": "int4", "bias": "int8"})), layout)
    later = arrays | {"bias": np.zeros(3, np.float32)}
    with pytest.raises(BundleError, match=r"'bias' changes from what is out .* int8 in both"):
        encode_onto(first, [later], [{"kernel": "int5", "bias": "int8"}])
    contents = encode_onto(
        first,
        [later, later],
        [{"kernel": "int5", "bias": "float16"}, {"kernel": "int8", "bias": "float16"}],
    )
    for content in contents:
        first = refine(first, content)
    np.testing.assert_array_equal(first.arrays()["bias"], 0)
    assert first.encodings == {"kernel": "int8", "bias": "float16"}
