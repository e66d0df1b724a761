import collections
import pickle

import numpy as np
import pytest

from accordion_jax.delivery.runtimes.examples import (
    count,
    part,
    random_examples,
    read_examples,
    share_wrong,
)
from accordion_jax.tasks import Features, Images, Spec

IMAGES = Images((4, 4, 1), (0.5,), (0.5,))
FEATURES = Features((3,))
ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)
Pair = collections.namedtuple("Pair", "a b")


class Pairs(Features):
    """A task whose examples are two arrays."""

    @property
    def inputs(self):
        return {"left": Spec((2,), "float32"), "right": Spec((), "int32")}

    def check(self, inputs):
        assert inputs.keys() == {"left", "right"}


def test_trees_of_arrays_are_counted_and_cut():
    tree = {"x": ROWS, "y": (ROWS[:, 0], [ROWS[:, 1]])}
    assert count(ROWS) == count(tree) == count((tree,)) == 5
    np.testing.assert_array_equal(part(ROWS, 1, 3), ROWS[1:3])
    cut = part(tree, 3, 9)
    np.testing.assert_array_equal(cut["y"][1][0], ROWS[3:, 1])
    assert isinstance(cut["y"], tuple)


@pytest.mark.parametrize(
    ("task", "name", "inputs"),
    [(FEATURES, "features", ROWS), (IMAGES, "images", np.zeros((5, 4, 4, 1), np.uint8))],
)
def test_arrays_are_read_by_the_names_of_the_task(tmp_path, task, name, inputs):
    np.savez(tmp_path / "x.npz", **{name: inputs}, labels=np.arange(5), other=["kept", "out"])
    read, targets = read_examples(str(tmp_path / "x.npz"), task)
    np.testing.assert_array_equal(read, inputs)
    np.testing.assert_array_equal(targets, np.arange(5))
    np.savez_compressed(tmp_path / "y.npz", **{name: inputs})
    assert read_examples(str(tmp_path / "y.npz"), task)[1] is None
    np.save(tmp_path / "x.npy", inputs)
    read, targets = read_examples(str(tmp_path / "x.npy"), task)
    np.testing.assert_array_equal(read, inputs)
    assert targets is None


def test_an_example_of_several_arrays_has_a_name_each(tmp_path):
    task = Pairs((3,))
    np.savez(tmp_path / "x.npz", left=ROWS[:, :2], right=np.arange(5, dtype=np.int32))
    inputs, _ = read_examples(str(tmp_path / "x.npz"), task)
    assert inputs.keys() == {"left", "right"}
    np.savez(tmp_path / "x.npz", left=ROWS[:, :2])
    with pytest.raises(ValueError, match="has the arrays \\['left'\\]; wanted 'right'"):
        read_examples(str(tmp_path / "x.npz"), task)
    np.savez(tmp_path / "x.npz", left=ROWS[:, :2], right=np.arange(4, dtype=np.int32))
    with pytest.raises(ValueError, match="has 5 and 4 examples"):
        read_examples(str(tmp_path / "x.npz"), task)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": ROWS}, "has the arrays ['images']; wanted 'features', and maybe 'labels'"),
        ({"features": ROWS.astype(np.float64)}, "features are float64 of shape (5, 3)"),
        ({"features": ROWS[:, :2]}, "wanted float32 of shape (batch, 3)"),
        ({"features": ROWS[:0]}, "has 0 examples; wanted at least one"),
        ({"features": np.float32(3)}, "features are one number"),
        (
            {"features": ROWS, "labels": np.zeros((5, 1), int)},
            "labels have the shape (5, 1); wanted (5,). Take the one column: labels[:, 0]",
        ),
        ({"features": ROWS, "labels": np.zeros(4, int)}, "labels have the shape (4,) for 5 rows"),
        ({"features": ROWS, "labels": np.int64(4)}, "labels have the shape () for 5 rows"),
        ({"features": ROWS, "labels": np.zeros(5)}, "labels are float64; wanted integers"),
        ({"features": ROWS, "labels": np.zeros(5, bool)}, "labels are bool; wanted integers"),
        ({"features": ROWS, "labels": np.array(["a"] * 5)}, "labels are <U1; wanted integers"),
    ],
)
def test_arrays_that_are_not_of_the_task_are_refused_with_what_to_do(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError) as error:
        read_examples(str(tmp_path / "x.npz"), FEATURES)
    assert message in str(error.value)
    assert "x.npz" in str(error.value)


def test_advice_on_labels_helps(tmp_path):
    labels = np.zeros((5, 1))
    labels = labels.astype("int64")
    np.savez(tmp_path / "x.npz", features=ROWS, labels=labels[:, 0])
    assert read_examples(str(tmp_path / "x.npz"), FEATURES)[1].shape == (5,)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_short_anywhere_is_refused_in_words(tmp_path, compressed):
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "whole.npz", features=ROWS, labels=np.arange(5))
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cannot be read as arrays .*: it is cut short"):
            read_examples(str(path), FEATURES)


def test_a_damaged_file_is_refused_in_words_or_read(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", features=ROWS)
    whole = (tmp_path / "whole.npz").read_bytes()
    path, refused = tmp_path / "damaged.npz", []
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x55]) + whole[index + 1 :])
        try:
            read_examples(str(path), FEATURES)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) // 2
    assert all("damaged.npz" in message for message in refused)


def test_pickles_are_refused_in_words(tmp_path):
    (tmp_path / "x.npy").write_bytes(pickle.dumps([1, 2]))
    np.save(tmp_path / "y.npy", np.array([{}, {}]), allow_pickle=True)
    np.savez(tmp_path / "z.npz", features=np.array([None]))
    (tmp_path / "text.npz").write_text("features,labels\n1,2\n")
    for name in ("x.npy", "y.npy", "z.npz", "text.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as arrays .*pickled"):
            read_examples(str(tmp_path / name), FEATURES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_examples(str(tmp_path / "none.npz"), FEATURES)


def test_the_share_of_wrong_answers_is_over_all_answers():
    outputs = np.eye(4, dtype=np.float32)
    assert share_wrong(FEATURES, outputs, np.array([0, 1, 2, 0])) == 0.25
    # Two answers an example, as a model of text has.
    both = np.stack([outputs, outputs], axis=1)
    assert share_wrong(FEATURES, both, np.array([[0, 1], [1, 1], [2, 2], [3, 3]])) == 0.125
    for targets in (np.zeros((4, 1), int), np.zeros(1, int), np.zeros((4, 4), int)):
        with pytest.raises(ValueError, match=r"wanted \(4,\), one an answer of the model"):
            share_wrong(FEATURES, outputs, targets)
    with pytest.raises(ValueError, match="no labels are given"):
        share_wrong(FEATURES, outputs[:0], np.zeros(0, int))


def test_random_examples_are_of_the_task_and_the_same_each_time():
    for task in (IMAGES, FEATURES):
        drawn = random_examples(task, 6)
        task.check(drawn)
        assert len(drawn) == 6
        np.testing.assert_array_equal(drawn, random_examples(task, 6))
    assert random_examples(IMAGES, 99).max() > 200
    pairs = random_examples(Pairs((3,)), 6)
    assert pairs["left"].shape == (6, 2)
    assert set(pairs["right"]) == {0, 1}
    assert pairs["right"].dtype == np.int32


def test_random_examples_that_no_memory_holds_are_refused():
    # A shape comes from a manifest: it may say anything.
    for side in (10**5, 10**300):
        huge = Images((side, side, 1), (0.5,), (0.5,))
        with pytest.raises(ValueError, match="more than the 1000000000 bytes that are drawn at"):
            random_examples(huge, 16)
