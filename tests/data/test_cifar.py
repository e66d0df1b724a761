"""The cache of decoded arrays, and the real data sets where they are prepared."""

import hashlib
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.data import cifar


def cache_of(data_dir, split="train"):
    (folder,) = (data_dir / "cifar10").iterdir()
    return folder / f"accordion-{split}.npz"


def forbid_decoding(monkeypatch):
    def decode(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cifar, "_decode", decode)


def test_the_second_load_decodes_nothing(prepared, monkeypatch):
    first = data.load("cifar10", "test", data_dir=prepared)
    forbid_decoding(monkeypatch)
    second = data.load("cifar10", "test", data_dir=prepared)
    np.testing.assert_array_equal(first.inputs, second.inputs)
    np.testing.assert_array_equal(first.targets, second.targets)
    assert not list(prepared.rglob("*.tmp"))


def flip_a_byte_of_an_image(path):
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def rewrite(**changes):
    def damage(path):
        with np.load(path) as file:
            arrays = dict(file)
        for name, change in changes.items():
            arrays[name] = change(arrays[name])
        np.savez(path, **arrays)

    return damage


def drop_labels(path):
    with np.load(path) as file:
        images = file["images"]
    np.savez(path, images=images)


DAMAGES = {
    "flipped byte": flip_a_byte_of_an_image,
    "cut": cut,
    "empty": empty,
    "one image less": rewrite(images=lambda a: a[1:], labels=lambda a: a[1:]),
    "labels do not match": rewrite(labels=lambda a: a[1:]),
    "no labels": drop_labels,
    "other shape": rewrite(images=lambda a: a.reshape(-1, 16, 64, 3)),
    "other dtype": rewrite(images=lambda a: a.astype(np.int16)),
    "a label out of range": rewrite(labels=lambda a: a + 9),
    "a pickle": rewrite(labels=lambda a: a.astype(object)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_built_again(damage, prepared, monkeypatch):
    whole = data.load("cifar10", "train", data_dir=prepared)
    damage(cache_of(prepared))
    again = data.load("cifar10", "train", data_dir=prepared)
    np.testing.assert_array_equal(whole.inputs, again.inputs)
    np.testing.assert_array_equal(whole.targets, again.targets)
    forbid_decoding(monkeypatch)  # It was mended, not only passed over.
    data.load("cifar10", "train", data_dir=prepared)


def test_a_folder_that_can_not_hold_a_cache_is_read_all_the_same(prepared):
    whole = data.load("cifar10", "train", data_dir=prepared)
    # Works for root too, whom permissions don't stop: folders stand where the files should go.
    cache_of(prepared).unlink()
    (cache_of(prepared) / "in the way").mkdir(parents=True)
    (prepared / ".accordion-cifar10.lock").unlink(missing_ok=True)
    (prepared / ".accordion-cifar10.lock").mkdir()
    again = data.load("cifar10", "train", data_dir=prepared)
    np.testing.assert_array_equal(whole.inputs, again.inputs)
    assert not list(prepared.rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_read_all_the_same(prepared):
    whole = data.load("cifar10", "train", data_dir=prepared)
    cache_of(prepared).unlink()
    (prepared / ".accordion-cifar10.lock").unlink(missing_ok=True)
    folders = [prepared, *(path for path in prepared.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        again = data.load("cifar10", "train", data_dir=prepared)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    np.testing.assert_array_equal(whole.inputs, again.inputs)


def test_the_newest_version_is_read(prepared, monkeypatch):
    folder = cache_of(prepared).parent
    for version in ("3.0.10", "3.0.9", "incomplete.XYZ_4.0.0"):
        (folder.parent / version).mkdir()
        (folder.parent / version / "dataset_info.json").write_text("{}")
    assert cifar._prepared_folder("cifar10", prepared) == folder.parent / "3.0.10"


@pytest.mark.tries("to another folder, or delete this one: it is then prepared again")
def test_another_file_format_is_named(prepared, tmp_path, dead_archive, put_by_hand):
    cache_of(prepared).unlink()
    description = cache_of(prepared).parent / "dataset_info.json"
    info = json.loads(description.read_text())
    description.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(data.DatasetUnavailableError, match="wanted array_record") as caught:
        data.load("cifar10", "train", data_dir=prepared)
    # As it says.
    for folder in (prepared, tmp_path / "another"):
        put_by_hand(dead_archive.path, folder)
    assert len(data.load("cifar10", "train", data_dir=tmp_path / "another")) == 35
    shutil.rmtree(re.search("cifar10 in (.*?) is prepared in", str(caught.value))[1])
    assert len(data.load("cifar10", "train", data_dir=prepared)) == 35


@pytest.mark.tries("can't be read: {}. Delete that folder: it is then prepared again")
def test_damaged_record_files_are_named(prepared, dead_archive, put_by_hand):
    cache_of(prepared).unlink()
    (records,) = prepared.rglob("cifar10-train.array_record*")
    records.write_bytes(records.read_bytes()[:100])
    with pytest.raises(data.DatasetUnavailableError, match="can't be read") as caught:
        data.load("cifar10", "train", data_dir=prepared)
    assert str(records.parent) in str(caught.value)
    # As it says.
    put_by_hand(dead_archive.path, prepared)
    shutil.rmtree(re.search("cifar10 in (.*?) can't be read", str(caught.value))[1])
    assert len(data.load("cifar10", "train", data_dir=prepared)) == 35


@pytest.mark.tries("copy the prepared data set to this machine first")
def test_a_remote_folder_is_copied_here(prepared):
    with pytest.raises(ValueError, match="copy the prepared data set to this machine first"):
        data.load("cifar10", "train", data_dir="gs://bucket/data")
    assert len(data.load("cifar10", "train", data_dir=prepared)) == 35


REAL_DIR = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
# SHA-256 of the sorted SHA-256s of (label, pixels): whatever their order.
REAL = {
    ("cifar10", "train"): (
        50_000,
        "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85",
    ),
    ("cifar10", "test"): (
        10_000,
        "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c",
    ),
    ("cifar100", "train"): (
        50_000,
        "36ce7a701fbea47796e570c34382aad50f2539687cfcbc6ae96e2f56530d29b6",
    ),
    ("cifar100", "test"): (
        10_000,
        "d3cd5d87a1b9317a0982c8ef5535fe3b86da8da90b13ce5e9b23ea06400dd5eb",
    ),
}


def digest(dataset):
    pairs = zip(dataset.inputs, dataset.targets, strict=True)
    return hashlib.sha256(
        b"".join(
            sorted(
                hashlib.sha256(bytes([label]) + image.tobytes()).digest() for image, label in pairs
            )
        )
    ).hexdigest()


@pytest.mark.parametrize(("name", "split"), REAL)
def test_the_real_data_sets(name, split):
    if cifar._prepared_folder(name, REAL_DIR) is None:
        pytest.skip(f"{name} is not prepared in {REAL_DIR}")
    dataset = data.load(name, split, data_dir=REAL_DIR)
    n, expected = REAL[name, split]
    assert dataset.inputs.shape == (n, 32, 32, 3)
    classes = 10 if name == "cifar10" else 100
    np.testing.assert_array_equal(np.bincount(dataset.targets), np.full(classes, n // classes))
    assert digest(dataset) == expected
    if split == "train":
        # Exact integer sums, through a histogram of each channel.
        levels = np.arange(256) / 255
        for c in range(3):
            share = np.bincount(dataset.inputs[..., c].ravel(), minlength=256) / (n * 1024)
            mean = share @ levels
            assert dataset.task.mean[c] == pytest.approx(mean, abs=6e-5)
            assert dataset.task.std[c] == pytest.approx(
                np.sqrt(share @ (levels - mean) ** 2), abs=6e-5
            )
