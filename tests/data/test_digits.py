import numpy as np
from sklearn import datasets

from accordion_jax import data


def test_the_two_splits_are_the_whole_data_set():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (train.inputs.shape, test.inputs.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    original = datasets.load_digits()
    ours = sorted(
        (image.tobytes(), int(label))
        for part in (train, test)
        for image, label in zip(part.inputs, part.targets, strict=True)
    )
    levels = np.rint(original.images / 16 * 255).astype(np.uint8)
    theirs = sorted(
        (image.tobytes(), int(label)) for image, label in zip(levels, original.target, strict=True)
    )
    assert ours == theirs
    assert (train.inputs.min(), train.inputs.max()) == (0, 255)


def test_the_split_is_stratified_and_shuffled():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    counts = np.bincount(train.targets) + np.bincount(test.targets)
    assert np.all(np.abs(np.bincount(test.targets) - counts / 5) < 1)
    for labels in (train.targets, test.targets):
        # Sorted labels would change nine times, shuffled ones nine times in ten.
        assert np.mean(labels[1:] != labels[:-1]) > 0.8


def test_the_split_never_changes():
    test = data.load("digits", "test")
    assert test.targets[:10].tolist() == [0, 4, 8, 2, 1, 7, 6, 9, 3, 9]
    again = data.load("digits", "test")
    np.testing.assert_array_equal(test.inputs, again.inputs)


def test_constants_are_those_of_the_training_split():
    train = data.load("digits", "train")
    pixels = train.inputs / 255
    np.testing.assert_allclose(train.task.mean, [pixels.mean()], atol=5e-5)
    np.testing.assert_allclose(train.task.std, [pixels.std()], atol=5e-5)
