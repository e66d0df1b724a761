import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.encodings.integers import LEVELS
from accordion_jax.delivery.bundle.encodings.scales import (
    choose_scales,
    dequantise,
    quantise,
    scales_of,
)

EVERY_CODE = np.arange(256, dtype=np.uint8)


def weights(rows, channels, seed=0, spread=2.0):
    """Normal numbers, channel by channel of another size."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.normal(0, spread, channels))
    return (rng.normal(size=(rows, channels)) * sizes).astype(np.float32)


def error(array, scales, levels, importance=1.0):
    off = dequantise(quantise(array, scales, levels), scales, levels).astype(np.float64) - array
    return (importance * off**2).sum(axis=0)


def test_scales_are_the_same_numbers_for_ever():
    scales = scales_of(np.float32(0.1), EVERY_CODE)
    assert scales.dtype == np.float32
    np.testing.assert_array_equal(scales[::16], np.float32(0.1) / 2.0 ** np.arange(16))
    assert [float(each).hex() for each in scales_of(np.float32(1), EVERY_CODE[:4])] == [
        "0x1.0000000000000p+0",
        "0x1.ea4afa0000000p-1",
        "0x1.d5818e0000000p-1",
        "0x1.c199be0000000p-1",
    ]
    assert np.all(np.diff(scales) < 0)


@pytest.mark.parametrize("levels", LEVELS.values())
def test_no_scale_that_a_byte_can_name_has_a_smaller_error(levels):
    array = weights(100, 12)
    unit, codes = choose_scales(array, levels)
    every = np.stack(
        [error(array, np.full(12, scale), levels) for scale in scales_of(unit, EVERY_CODE)]
    )
    np.testing.assert_array_equal(error(array, scales_of(unit, codes), levels), every.min(axis=0))


def test_what_is_important_decides():
    array = weights(50, 3)
    array[0] = 5 * np.abs(array).max(axis=0)  # outliers, which coarse scales suit
    importance = np.ones((50, 1))
    importance[0] = 0
    unit, plain = choose_scales(array, 15)
    also, weighted = choose_scales(array, 15, importance=importance)
    assert unit == also
    assert np.all(weighted > plain)  # finer scales
    assert np.all(
        error(array, scales_of(unit, weighted), 15, importance)
        < error(array, scales_of(unit, plain), 15, importance)
    )


def test_a_tensor_that_is_a_function_of_another_is_measured_against_the_weights():
    array = weights(400, 4)
    unit, codes = choose_scales(array, 31)
    finer = dequantise(quantise(array, scales_of(unit, codes), 31), scales_of(unit, codes), 31)
    unit, codes = choose_scales(array, 7, quantised=finer)

    def nested_error(scales):
        off = dequantise(quantise(finer, scales, 7), scales, 7).astype(np.float64) - array
        return (off**2).sum(axis=0)

    every = [nested_error(np.full(4, scale)) for scale in scales_of(unit, EVERY_CODE)]
    np.testing.assert_array_equal(nested_error(scales_of(unit, codes)), np.min(every, axis=0))


@given(
    levels=st.sampled_from(sorted(LEVELS.values())),
    value=st.floats(-(2.0**126), 2.0**126, width=32),
    rows=st.integers(1, 4),
)
def test_a_channel_of_one_number_is_within_half_a_step_of_it(levels, value, rows):
    array = np.full((rows, 1), value, np.float32)
    unit, codes = choose_scales(array, levels)
    scales = scales_of(unit, codes)
    after = dequantise(quantise(array, scales, levels), scales, levels)
    assert np.isfinite(after).all()
    tiny = 2e-44  # a few of the smallest numbers there are: rounding
    assert np.all(np.abs(after.astype(float) - array) <= scales.astype(float) / 2 + tiny)


def test_a_channel_of_zeros_stays_zero_or_next_to_it_beside_another():
    array = weights(30, 2)
    array[:, 0] = 0
    for levels in LEVELS.values():
        unit, codes = choose_scales(array, levels)
        scales = scales_of(unit, codes)
        after = dequantise(quantise(array, scales, levels), scales, levels)[:, 0]
        assert np.all(after == 0 if levels % 2 else np.abs(after) < 3e-5 * np.abs(array).max())


def test_all_zeros_are_all_zeros_in_any_number_of_levels():
    for levels in LEVELS.values():
        unit, codes = choose_scales(np.zeros((3, 2), np.float32), levels)
        indices = quantise(np.zeros((3, 2), np.float32), scales_of(unit, codes), levels)
        assert not dequantise(indices, scales_of(unit, codes), levels).any()
