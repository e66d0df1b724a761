import numpy as np
from sklearn import datasets

from accordion_jax import data


def test_the_two_splits_are_the_whole_data_set():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (train.images.shape, test.images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    original = datasets.load_digits()
    ours = sorted(
        (image.tobytes(), int(label))
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    )
    levels = np.rint(original.images / 16 * 255).astype(np.uint8)
    theirs = sorted(
        (image.tobytes(), int(label)) for image, label in zip(levels, original.target, strict=True)
    )
    assert ours == theirs
    assert (train.images.min(), train.images.max()) == (0, 255)


def test_the_split_is_stratified_and_shuffled():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    counts = np.bincount(train.labels) + np.bincount(test.labels)
    assert np.all(np.abs(np.bincount(test.labels) - counts / 5) < 1)
    for labels in (train.labels, test.labels):
        # Sorted labels would change nine times, shuffled ones nine times in ten.
        assert np.mean(labels[1:] != labels[:-1]) > 0.8


def test_the_split_never_changes():
    test = data.load("digits", "test")
    assert test.labels[:10].tolist() == [0, 4, 8, 2, 1, 7, 6, 9, 3, 9]
    again = data.load("digits", "test")
    np.testing.assert_array_equal(test.images, again.images)


def test_constants_are_those_of_the_training_split():
    train = data.load("digits", "train")
    pixels = train.images / 255
    np.testing.assert_allclose(train.mean, [pixels.mean()], atol=5e-5)
    np.testing.assert_allclose(train.std, [pixels.std()], atol=5e-5)
