"""Augmentation against NumPy's slicing, and its independence of how a batch is cut up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax.tasks import augmentation


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
    result = augmentation.apply_augmentation(images, offsets, flips, pad)
    assert result.dtype == jnp.uint8
    expected = np.stack([crop(image, *choice, pad) for choice in choices])
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("flip", [True, False])
def test_augment_gives_only_crops_of_its_own_images(flip):
    images = random_images(64, 12, 12, 3)
    result = np.asarray(
        augmentation.augment(jnp.asarray(images), jax.random.key(1), pad=2, flip=flip)
    )
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
    offsets, flips = augmentation.augment_parameters(jax.random.key(0), n, 4, True)
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
    result = augmentation.augment(images, jax.random.key(0), pad=0, flip=False)
    np.testing.assert_array_equal(result, images)


def test_the_key_decides():
    images = jnp.asarray(random_images(32, 8, 8, 3))
    first, again, other = (augmentation.augment(images, jax.random.key(k)) for k in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))


def test_slices_of_the_global_draw_equal_the_whole():
    images = jnp.asarray(random_images(24, 8, 8, 3))
    key = jax.random.key(3)
    whole = augmentation.augment(images, key)
    offsets, flips = augmentation.augment_parameters(key, 24)
    for parts in (1, 2, 3, 8):
        rows = np.split(np.arange(24), parts)
        cut = [augmentation.apply_augmentation(images[r], offsets[r], flips[r]) for r in rows]
        np.testing.assert_array_equal(np.concatenate(cut), whole)


def test_jit_equals_eager_whatever_the_precision_of_products():
    images = jnp.asarray(random_images(32, 32, 32, 3))
    eager = augmentation.augment(images, jax.random.key(5))
    for precision in ("bfloat16", "float32"):
        with jax.default_matmul_precision(precision):
            jitted = jax.jit(augmentation.augment, static_argnames=("pad", "flip"))
            np.testing.assert_array_equal(jitted(images, jax.random.key(5)), eager)


def test_augment_refuses_what_it_can_not_crop():
    key = jax.random.key(0)
    images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
    with pytest.raises(TypeError, match="float32; wanted uint8"):
        augmentation.augment(images.astype(jnp.float32), key)
    with pytest.raises(ValueError, match="pad=-1"):
        augmentation.augment(images, key, pad=-1)
    with pytest.raises(ValueError, match=r"images \[4, 8, 8\]"):
        augmentation.augment(images[..., 0], key)
    offsets, flips = augmentation.augment_parameters(key, 8)
    with pytest.raises(ValueError, match=r"offsets \[8, 2\]"):
        augmentation.apply_augmentation(images, offsets, flips)
