"""Names, splits, the held-out part, and what a Dataset guarantees."""

import pathlib

import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.data import loading
from accordion_jax.data.dataset import fixed_permutation
from accordion_jax.tasks import Features, Images

TASK = Images((2, 2, 1), (0.5,), (0.25,))


def keyed(n, name="numbers"):
    """A data set whose image i holds the number i, so that rows can be told apart."""
    images = np.arange(n, dtype="<u4").view(np.uint8).reshape(n, 2, 2, 1)
    return data.Dataset(name, TASK, images, np.arange(n, dtype=np.int32), n)


@pytest.fixture
def asked(monkeypatch):
    """Registers the data set "numbers"; lists the (split, folder) asked of its loader."""
    calls = []

    def load_numbers(split, data_dir):
        calls.append((split, data_dir))
        return keyed(100 if split == "train" else 10)

    monkeypatch.setitem(loading.LOADERS, "numbers", load_numbers)
    return calls


@pytest.mark.parametrize("holdout", [1, 10, 99])
def test_holdout_is_disjoint_and_exhaustive(asked, holdout):
    train = data.load("numbers", "train", holdout=holdout)
    validation = data.load("numbers", "validation", holdout=holdout)
    assert len(validation) == holdout
    assert sorted([*train.targets, *validation.targets]) == list(range(100))
    for part in (train, validation):
        # Images stay with their labels, in the original order.
        np.testing.assert_array_equal(part.inputs.reshape(-1).view("<u4"), part.targets)
        assert np.all(np.diff(part.targets) > 0)
        assert part.num_classes == 100
    assert {split for split, _ in asked} == {"train"}


def test_holdout_is_drawn_and_the_same_each_time(asked):
    def held_out(holdout, **kwargs):
        return data.load("numbers", "validation", holdout=holdout, **kwargs).targets.tolist()

    assert held_out(10) == held_out(10)
    assert held_out(10) != list(range(10))
    assert held_out(10) != held_out(10, seed=1)
    assert set(held_out(10)) < set(held_out(20))


def test_the_permutation_is_written_in_stone():
    assert sorted(fixed_permutation(1000, 3)) == list(range(1000))
    # These never change, whatever the version of NumPy: results that were published hang on them.
    assert fixed_permutation(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert fixed_permutation(10, 1).tolist() == [9, 2, 4, 7, 5, 0, 8, 6, 3, 1]


def test_the_test_split_is_whole_whatever_is_held_out(asked):
    assert len(data.load("numbers", "test", holdout=10)) == 10
    assert len(data.load("numbers", "train")) == 100


def test_the_data_folder(asked, monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    data.load("numbers", "train")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    data.load("numbers", "train")
    data.load("numbers", "train", data_dir=str(tmp_path))
    data.load("numbers", "train", data_dir="~/here")
    home = pathlib.Path.home()
    expected = [home / "tensorflow_datasets", tmp_path / "env", tmp_path, home / "here"]
    assert [folder for _, folder in asked] == expected


@pytest.mark.parametrize(
    ("arguments", "kwargs", "parts"),
    [
        (("cifar11", "train"), {}, ["'cifar11'", "cifar10, cifar100, digits"]),
        (("digits", "valid"), {}, ["'valid'", "train, validation, test"]),
        (("digits", "validation"), {}, ["holdout=0", "set holdout"]),
        (("digits", "train"), {"holdout": -1}, ["holdout=-1", "negative"]),
        (("digits", "train"), {"holdout": 1437}, ["holdout=1437", "of digits", "less than 1437"]),
        (("digits", "train"), {"data_dir": "gs://bucket/data"}, ["gs://bucket/data", "local"]),
    ],
)
def test_errors_say_what_was_given_and_what_is_wanted(arguments, kwargs, parts):
    with pytest.raises(ValueError) as caught:
        data.load(*arguments, **kwargs)
    for part in parts:
        assert part in str(caught.value)


def test_arrays_are_read_only_and_the_callers_are_left_alone():
    images, labels = np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32)
    dataset = data.Dataset("zeros", TASK, images, labels, 1)
    assert len(dataset) == 3
    with pytest.raises(ValueError, match="read-only"):
        dataset.inputs[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        dataset.targets[0] = 1
    images[0] = labels[0] = 1  # No error.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.zeros((3, 2, 2), np.uint8)}, r"uint8 of shape \(3, 2, 2\); wanted"),
        ({"inputs": np.zeros((3, 2, 2, 1), np.float32)}, r"'zeros': images are float32 of shape"),
        ({"targets": np.zeros(2, np.int32)}, r"\[3\] images for 2 labels"),
        ({"targets": np.zeros(3, np.int64)}, r"labels are int64 \[3\]; wanted int32"),
        ({"task": Features((4,))}, "features are uint8"),
    ],
)
def test_a_dataset_of_the_wrong_shape_is_refused(change, message):
    fields = {
        "name": "zeros",
        "task": TASK,
        "inputs": np.zeros((3, 2, 2, 1), np.uint8),
        "targets": np.zeros(3, np.int32),
        "num_classes": 1,
    }
    with pytest.raises(ValueError, match=message):
        data.Dataset(**{**fields, **change})
