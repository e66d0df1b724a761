"""Running statistics that are measured anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, tasks
from accordion_jax.training.renewing import Renewal
from tests.networks import IMAGE_SHAPE, perturbed_variables, tiny_resnet

MODEL = tiny_resnet()
VARIABLES = jax.tree.map(np.asarray, perturbed_variables(MODEL))


def dataset_of(**augmentation):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *IMAGE_SHAPE), np.uint8)
    task = tasks.Images(IMAGE_SHAPE, (0.5,) * 2, (0.25,) * 2).with_augmentation(**augmentation)
    return task, data.Dataset("random", task, images, rng.integers(0, 10, 60, np.int32), 10)


def renewal(steps=60, batch_size=20, seed=0, **augmentation):
    return Renewal(*dataset_of(**augmentation), seed=seed, steps=steps, batch_size=batch_size)


def test_what_was_there_before_is_forgotten_and_all_else_stays():
    renew = renewal()
    found = renew(MODEL, VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, found["params"], VARIABLES["params"])
    far = VARIABLES | {"batch_stats": jax.tree.map(lambda x: x + 5, VARIABLES["batch_stats"])}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.02),
        renew(MODEL, far)["batch_stats"],
        found["batch_stats"],
    )


def test_they_are_those_of_the_features():
    task, train = dataset_of(pad=0, flip=False)
    found = Renewal(task, train, steps=60, batch_size=60)(MODEL, VARIABLES)
    images = task.prepare(jnp.asarray(train.inputs))
    kernel = jnp.asarray(VARIABLES["params"]["stem"]["conv"]["kernel"])
    features = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm = found["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(norm["mean"], features.mean((0, 1, 2)), rtol=0.02, atol=0.01)
    np.testing.assert_allclose(norm["var"], features.var((0, 1, 2)), rtol=0.02)


def test_images_are_augmented_as_in_training():
    plain, padded = (renewal(pad=pad, flip=False) for pad in (0, 4))
    norms = [each(MODEL, VARIABLES)["batch_stats"]["stem"]["norm"] for each in (plain, padded)]
    assert all(np.abs(norms[1][name] / norms[0][name] - 1).max() > 0.1 for name in ("mean", "var"))


def test_the_same_seed_gives_the_same():
    first, again, other = (renewal(3, seed=seed)(MODEL, VARIABLES) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, first, other)
