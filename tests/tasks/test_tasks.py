"""Tasks: one rule of preparation for a step and for a device, and errors in words."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, tasks
from accordion_jax.tasks import Features, Images, Task
from accordion_jax.tasks.answers import cross_entropy, not_the_largest

IMAGES = Images((8, 8, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
FEATURES = Features((3,), (1.0, 2.0, 3.0), (0.5, 2.0, 4.0))


def examples(task, count=16, seed=0):
    rng, spec = np.random.default_rng(seed), task.inputs
    if spec.dtype == "uint8":
        return rng.integers(0, 256, (count, *spec.shape), np.uint8)
    return rng.normal(size=(count, *spec.shape)).astype(spec.dtype)


@pytest.mark.parametrize(
    "task", [IMAGES, FEATURES, Features((4,))], ids=["images", "features", "raw"]
)
def test_a_described_task_is_made_again(task):
    description = json.loads(json.dumps(tasks.describe(task)))
    assert description["kind"] == task.kind
    assert tasks.from_description(description) == task
    assert isinstance(task, Task)


def test_augmentation_is_not_described():
    trained = IMAGES.with_augmentation(pad=4, flip=True)
    assert trained != IMAGES
    assert tasks.describe(trained) == tasks.describe(IMAGES)
    assert tasks.augmentation_fields(IMAGES) == ("pad", "flip")
    assert tasks.augmentation_fields(FEATURES) == ()


@pytest.mark.parametrize("task", [IMAGES, FEATURES], ids=["images", "features"])
def test_a_device_prepares_by_the_rule_of_the_step(task):
    given = examples(task)
    on_device = task.prepare(given)
    assert isinstance(on_device, np.ndarray)
    assert on_device.dtype == np.float32
    in_step = jax.jit(task.prepare)(jnp.asarray(given))
    # XLA may multiply and add in one instruction, with one rounding in place of two.
    np.testing.assert_allclose(on_device, in_step, rtol=1e-6, atol=1e-6)
    wanted = (given / 255 if task is IMAGES else given).astype(np.float64)
    wanted = (wanted - np.array(task.mean)) / np.array(task.std)
    np.testing.assert_allclose(on_device, wanted, rtol=0, atol=2e-6)


def test_normalised_training_images_have_mean_zero_and_variance_one():
    train = data.load("digits", "train")
    pixels = train.task.prepare(train.inputs)
    assert abs(pixels.mean()) < 1e-3
    assert abs(pixels.std() - 1) < 1e-3


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        (IMAGES, np.zeros((2, 8, 8, 3), np.float32), r"images are float32 .* wanted uint8"),
        (IMAGES, np.zeros((2, 8, 9, 3), np.uint8), r"\(2, 8, 9, 3\); wanted .*\(batch, 8, 8, 3\)"),
        (FEATURES, np.zeros((2, 3), np.uint8), r"features are uint8 .* wanted float32"),
        (FEATURES, np.zeros((2, 4), np.float32), r"wanted float32 of shape \(batch, 3\)"),
    ],
)
def test_other_inputs_are_refused(task, given, words):
    for use in (task.check, task.prepare):
        with pytest.raises(ValueError, match=words):
            use(given)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (
            {"kind": "spectrograms"},
            f"'spectrograms' is not known here; known: {', '.join(sorted(tasks.KINDS))}",
        ),
        ({"shape": [8, 8, 1]}, "kind None is not known here"),
        ({"kind": ["images"]}, r"kind \['images'\] is not known here"),
        ({"kind": "images", "shape": [8, 8, 1], "mean": [0.5]}, "lacks or spoils 'std'"),
        ({"kind": "images", "shape": 8, "mean": [0.5], "std": [1.0]}, "wanted shape, mean and std"),
        ({"kind": "images", "shape": [8, 8], "mean": [], "std": []}, r"wanted \(height, width"),
        ({"kind": "images", "shape": [8, 8, 1], "mean": [0.5], "std": [0]}, "not positive"),
        ({"kind": "images", "shape": [8, 8, 1], "mean": [0, 0], "std": [1]}, "2 means and 1"),
        ({"kind": "features", "shape": [0]}, "wanted \\(how many,\\)"),
        ({"kind": "features", "shape": [2], "mean": [1.0]}, "1 means and 0"),
    ],
)
def test_bad_descriptions_are_named(description, words):
    with pytest.raises(ValueError, match=words):
        tasks.from_description(description)


def test_a_description_from_before_there_were_kinds_is_of_images():
    old = {name: value for name, value in tasks.describe(IMAGES).items() if name != "kind"}
    assert tasks.from_description(old) == IMAGES


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="pad=-1 is negative"):
        dataclasses.replace(IMAGES, pad=-1)


def test_loss_and_error_are_those_of_each_answer():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(2, 5, 4)).astype(np.float32)
    targets = rng.integers(0, 4, (2, 5)).astype(np.int32)
    losses = cross_entropy(jnp.asarray(outputs), jnp.asarray(targets))
    shares = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    wanted = -np.log(np.take_along_axis(shares, targets[..., None], -1)[..., 0])
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    wrong = not_the_largest(outputs, targets)
    np.testing.assert_array_equal(wrong, outputs.argmax(-1) != targets)
    np.testing.assert_array_equal(
        not_the_largest(jnp.asarray(outputs), jnp.asarray(targets)), wrong
    )
