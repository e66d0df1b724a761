"""Augmentation against NumPy's slicing, and its independence of how a batch is cut up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def crop(image, row, column, flip, pad):
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    cropped = padded[row : row + height, column : column + width]
    return cropped[:, ::-1] if flip else cropped


@pytest.mark.parametrize(("shape", "pad"), [((32, 32, 3), 4), ((8, 8, 1), 1), ((5, 9, 2), 7)])
def test_every_crop_and_flip_equals_slicing_the_padded_image(shape, pad):
    image = random_images(*shape)
    choices = [
        (row, column, flip)
        for row in range(2 * pad + 1)
        for column in range(2 * pad + 1)
        for flip in (False, True)
    ]
    assert len(choices) == 2 * (2 * pad + 1) ** 2
    images = jnp.asarray(np.broadcast_to(image, (len(choices), *shape)))
    offsets = jnp.asarray([choice[:2] for choice in choices], jnp.int32)
    flips = jnp.asarray([choice[2] for choice in choices])
    result = data.apply_augmentation(images, offsets, flips, pad)
    assert result.dtype == jnp.uint8
    expected = np.stack([crop(image, *choice, pad) for choice in choices])
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("flip", [True, False])
def test_augment_gives_only_crops_of_its_own_images(flip):
    images = random_images(64, 12, 12, 3)
    result = np.asarray(data.augment(jnp.asarray(images), jax.random.key(1), pad=2, flip=flip))
    for image, output in zip(images, result, strict=True):
        possible = {
            crop(image, row, column, mirrored, 2).tobytes()
            for row in range(5)
            for column in range(5)
            for mirrored in {False, flip}
        }
        assert output.tobytes() in possible


def test_draws_are_uniform_and_independent():
    n = 20_000
    offsets, flips = data.augment_parameters(jax.random.key(0), n, 4, True)
    assert (offsets.shape, offsets.dtype) == ((n, 2), jnp.int32)
    assert (flips.shape, flips.dtype) == ((n,), jnp.bool_)
    cells = np.asarray(offsets) @ [18, 2] + np.asarray(flips)
    counts = np.bincount(cells, minlength=162)
    # 162 cells of 123.5 on average: five standard deviations.
    assert len(counts) == 162
    assert np.all(np.abs(counts - n / 162) < 5 * np.sqrt(n / 162))
    assert abs(np.asarray(flips).mean() - 0.5) < 5 * 0.5 / np.sqrt(n)


def test_no_padding_and_no_flip_changes_nothing():
    images = jnp.asarray(random_images(16, 8, 8, 3))
    result = data.augment(images, jax.random.key(0), pad=0, flip=False)
    np.testing.assert_array_equal(result, images)


def test_the_key_decides():
    images = jnp.asarray(random_images(32, 8, 8, 3))
    first, again, other = (data.augment(images, jax.random.key(k)) for k in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))


def test_slices_of_the_global_draw_equal_the_whole():
    images = jnp.asarray(random_images(24, 8, 8, 3))
    key = jax.random.key(3)
    whole = data.augment(images, key)
    offsets, flips = data.augment_parameters(key, 24)
    for parts in (1, 2, 3, 8):
        rows = np.split(np.arange(24), parts)
        cut = [data.apply_augmentation(images[r], offsets[r], flips[r]) for r in rows]
        np.testing.assert_array_equal(np.concatenate(cut), whole)


def test_jit_equals_eager_whatever_the_precision_of_products():
    images = jnp.asarray(random_images(32, 32, 32, 3))
    eager = data.augment(images, jax.random.key(5))
    for precision in ("bfloat16", "float32"):
        with jax.default_matmul_precision(precision):
            jitted = jax.jit(data.augment, static_argnames=("pad", "flip"))
            np.testing.assert_array_equal(jitted(images, jax.random.key(5)), eager)


def test_augment_refuses_what_it_can_not_crop():
    key = jax.random.key(0)
    images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
    with pytest.raises(TypeError, match="float32; wanted uint8"):
        data.augment(images.astype(jnp.float32), key)
    with pytest.raises(ValueError, match="pad=-1"):
        data.augment(images, key, pad=-1)
    with pytest.raises(ValueError, match=r"images \[4, 8, 8\]"):
        data.augment(images[..., 0], key)
    offsets, flips = data.augment_parameters(key, 8)
    with pytest.raises(ValueError, match=r"offsets \[8, 2\]"):
        data.apply_augmentation(images, offsets, flips)


def test_normalise_is_its_equation():
    images = random_images(16, 8, 8, 3)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    result = data.normalise(jnp.asarray(images), mean, std)
    assert result.dtype == jnp.float32
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_normalise_rounds_once():
    images = jnp.asarray(random_images(16, 8, 8, 1))
    exact = data.normalise(images, (0.3,), (0.4,))
    half = data.normalise(images, (0.3,), (0.4,), jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))


def test_normalised_training_images_have_mean_zero_and_variance_one():
    train = data.load("digits", "train")
    pixels = np.asarray(data.normalise(jnp.asarray(train.images), train.mean, train.std))
    assert abs(pixels.mean()) < 1e-3
    assert abs(pixels.std() - 1) < 1e-3


def test_normalise_refuses_what_does_not_fit():
    images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
    with pytest.raises(ValueError, match="1 means and 1 standard deviations"):
        data.normalise(images, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="not positive"):
        data.normalise(images, (0.5,) * 3, (0.5, 0.0, 0.5))
    with pytest.raises(TypeError, match="float32; wanted uint8"):
        data.normalise(images.astype(jnp.float32), (0.5,) * 3, (0.5,) * 3)
