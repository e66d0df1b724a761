"""From an archive on a server to a TFDS data set, and every way it can fail."""

import dataclasses
import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from accordion_jax import data
from accordion_jax.data import cifar


def as_set(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_downloads_and_prepares_what_the_archive_holds(
    name, small_archives, server, monkeypatch, tmp_path
):
    archive = small_archives[name]
    monkeypatch.setitem(cifar.ARCHIVES, name, archive.at(f"{server.url}/{archive.path.name}"))
    for split, (images, labels) in archive.arrays.items():
        loaded = data.load(name, split, data_dir=tmp_path)
        assert as_set(loaded.inputs, loaded.targets) == as_set(images, labels)
    assert "tensorflow" not in sys.modules
    # One look whether it answers, one download, for both splits together.
    assert len(server.hits) == 2


def test_the_result_is_an_ordinary_tfds_data_set(prepared, dead_archive):
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split="train", data_dir=prepared)
    loaded = data.load("cifar10", "train", data_dir=prepared)
    np.testing.assert_array_equal(np.stack([e["image"] for e in source]), loaded.inputs)
    np.testing.assert_array_equal(np.stack([e["label"] for e in source]), loaded.targets)
    # Ids number the records in the order of the files; the record files are shuffled.
    ids = [int(e["id"].decode().removeprefix("train_")) for e in source]
    images, _ = dead_archive.arrays["train"]
    assert ids != sorted(ids)
    np.testing.assert_array_equal(images[ids], loaded.inputs)
    info = tfds.builder_from_directory(next((prepared / "cifar10").iterdir())).info
    assert info.features["label"].names == [f"label_{i}" for i in range(10)]


def test_leaves_tfds_as_it_was(dead_archive, tmp_path, put_by_hand):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import tqdm_utils
    from tensorflow_datasets.image_classification import cifar as tfds_cifar

    before = (tfds_cifar._load_data, tfds.download.DownloadManager._download, tqdm_utils._active)
    put_by_hand(dead_archive.path, tmp_path)
    data.load("cifar10", "train", data_dir=tmp_path)
    after = (tfds_cifar._load_data, tfds.download.DownloadManager._download, tqdm_utils._active)
    assert before == after
    assert type(tfds.builder("cifar10", data_dir=tmp_path)) is tfds_cifar.Cifar10


def test_an_archive_put_by_hand_is_used_without_a_network(dead_archive, tmp_path, put_by_hand):
    put_by_hand(dead_archive.path, tmp_path)
    loaded = data.load("cifar10", "test", data_dir=tmp_path)
    assert as_set(loaded.inputs, loaded.targets) == as_set(*dead_archive.arrays["test"])


@pytest.mark.tries("or (2) put the archive itself at")
def test_without_network_or_data_says_what_to_do_and_soon(
    dead_archive, tmp_path, put_by_hand, monkeypatch
):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(data.DatasetUnavailableError) as caught:
        data.load("cifar10", "train", data_dir=tmp_path)
    # TFDS alone retries for more than three minutes.
    assert sum(waits) < 10
    manual = tmp_path / "downloads" / "manual" / "cifar-10-binary.tar.gz"
    for part in ("cifar10", tmp_path, dead_archive.description.url, "refused", manual):
        assert str(part) in str(caught.value)
    assert "--config.data.dir" in str(caught.value)
    # And the failure leaves nothing that stands in the way of the remedy it names.
    archive = pathlib.Path(re.search(r"put the archive itself at (\S+);", str(caught.value))[1])
    assert archive == manual
    put_by_hand(dead_archive.path, tmp_path)
    assert archive.is_file()
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) == 35
    # The others, from here: its folder copied to a machine, or named with the flag.
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "cifar10", copied / "cifar10")
    assert len(data.load("cifar10", "train", data_dir=copied)) == 35


def test_a_missing_page_is_an_error_with_its_status(dead_archive, server, monkeypatch, tmp_path):
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", dead_archive.at(f"{server.url}/no.tar.gz"))
    with pytest.raises(data.DatasetUnavailableError, match="404"):
        data.load("cifar10", "train", data_dir=tmp_path)


def test_a_download_with_a_wrong_checksum_is_refused(small_archives, server, monkeypatch, tmp_path):
    archive = small_archives["cifar10"]
    wanted = archive.at(f"{server.url}/{archive.path.name}")
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", dataclasses.replace(wanted, sha256="0" * 64))
    with pytest.raises(data.DatasetUnavailableError) as caught:
        data.load("cifar10", "train", data_dir=tmp_path)
    for part in ("wrong checksum", "0" * 64, archive.description.sha256, wanted.url):
        assert part in str(caught.value)
    assert not (tmp_path / "cifar10").exists()
    # The same server with the right checksum in mind: nothing of the refused file is reused.
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", wanted)
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) == 35


@pytest.mark.tries("gives this. Delete that file and try again")
def test_a_wrong_archive_put_by_hand_is_refused(dead_archive, tmp_path, put_by_hand):
    put_by_hand(dead_archive.path, tmp_path)
    by_hand = tmp_path / "downloads" / "manual" / dead_archive.path.name
    by_hand.write_bytes(b"<html>Please log in</html>")
    with pytest.raises(data.DatasetUnavailableError, match="wrong checksum") as caught:
        data.load("cifar10", "train", data_dir=tmp_path)
    assert str(by_hand) in str(caught.value)
    by_hand.unlink()  # as it says
    put_by_hand(dead_archive.path, tmp_path)
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) == 35


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"leave_out": "data_batch_3.bin"}, "has no cifar-10-batches-bin/data_batch_3.bin"),
        ({"spoil": "test_batch.bin"}, "not a multiple of the 3073"),
    ],
)
@pytest.mark.tries("Delete it and try again", "Delete the archive and try again")
def test_an_archive_of_another_shape_is_refused(
    damage, message, monkeypatch, tmp_path, put_by_hand, make_archive, small_archives
):
    archive = make_archive("cifar10", tmp_path / "made", **damage)
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive.description)
    put_by_hand(archive.path, tmp_path)
    with pytest.raises(data.DatasetUnavailableError, match=message) as caught:
        data.load("cifar10", "train", data_dir=tmp_path)
    # As it says.
    pathlib.Path(re.search(r"the archive (\S+) has", str(caught.value))[1]).unlink()
    right = small_archives["cifar10"]
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", right.description)
    put_by_hand(right.path, tmp_path)
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) == 35


@pytest.mark.parametrize("damage", ["cut", "other"])
@pytest.mark.tries("can't be unpacked: {}. Delete it and try again")
def test_an_archive_that_can_not_be_unpacked_is_refused(
    damage, small_archives, monkeypatch, tmp_path, put_by_hand, describe
):
    whole = small_archives["cifar10"].path.read_bytes()
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"no archive" * 1000)
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", describe("cifar10", path))
    put_by_hand(path, tmp_path)
    with pytest.raises(data.DatasetUnavailableError, match="can't be unpacked") as caught:
        data.load("cifar10", "train", data_dir=tmp_path)
    # As it says.
    pathlib.Path(re.search(r"the archive (\S+) can't", str(caught.value))[1]).unlink()
    right = small_archives["cifar10"]
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", right.description)
    put_by_hand(right.path, tmp_path)
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) == 35


@pytest.mark.tries("to a folder that can be written and has 0.5 GB of room")
def test_a_data_folder_that_can_not_be_written_is_named(
    dead_archive, monkeypatch, tmp_path, put_by_hand
):
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DatasetUnavailableError, match="NotADirectory") as caught:
        data.load("cifar10", "train", data_dir=tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in str(caught.value)

    def denied(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    put_by_hand(dead_archive.path, tmp_path / "read_only")
    with monkeypatch.context() as patch:
        patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", denied)
        with pytest.raises(data.DatasetUnavailableError) as caught:
            data.load("cifar10", "train", data_dir=tmp_path / "read_only")
    assert "to a folder that can be written and has 0.5 GB of room" in str(caught.value)
    put_by_hand(dead_archive.path, tmp_path / "another")
    monkeypatch.setenv(
        re.search(r"--config\.data\.dir \(or (\w+)\)", str(caught.value))[1],
        str(tmp_path / "another"),
    )
    assert len(data.load("cifar10", "train")) == 35


@pytest.mark.parametrize("where", ["downloading", "writing"])
@pytest.mark.tries("Make 0.5 GB of room and try again")
def test_a_disk_without_room_for_the_data_is_named(
    where, dead_archive, monkeypatch, tmp_path, put_by_hand
):
    put_by_hand(dead_archive.path, tmp_path)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = {
        "downloading": (tfds.download.DownloadManager, "download"),
        "writing": (tfds.core.DatasetBuilder, "download_and_prepare"),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(data.DatasetUnavailableError) as caught:
            data.load("cifar10", "train", data_dir=tmp_path)
    assert str(caught.value).startswith(f"cifar10: no room in {tmp_path} (No space left on device)")
    assert "try again" in str(caught.value)
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) > 0


@pytest.mark.tries("(a version folder with dataset_info.json). Delete that folder and")
def test_half_a_data_set_is_named_and_left_alone(dead_archive, tmp_path, put_by_hand):
    half = tmp_path / "cifar10" / "3.0.2"
    half.mkdir(parents=True)
    (half / "notes.txt").write_text("mine")
    put_by_hand(dead_archive.path, tmp_path)
    with pytest.raises(data.DatasetUnavailableError, match="not a whole data set") as caught:
        data.load("cifar10", "train", data_dir=tmp_path)
    assert (half / "notes.txt").read_text() == "mine"
    # As it says.
    folder = re.search(r"found something in (\S+) and left it", str(caught.value))[1]
    assert str(caught.value).endswith("Delete that folder and try again.")
    shutil.rmtree(folder)
    assert len(data.load("cifar10", "train", data_dir=tmp_path)) == 35


PROCESS = """
import dataclasses, hashlib, sys
from accordion_jax import data
from accordion_jax.data import cifar, preparation

size, sha256, data_dir = sys.argv[1:]
cifar.ARCHIVES["cifar10"] = dataclasses.replace(
    cifar.ARCHIVES["cifar10"], size_bytes=int(size), sha256=sha256, url="http://127.0.0.1:1/"
    + cifar.ARCHIVES["cifar10"].filename
)
prepare, prepared = preparation.prepare, []
preparation.prepare = lambda *args: (prepared.append(1), prepare(*args))
loaded = data.load("cifar10", "train", data_dir=data_dir)
print("RESULT", len(prepared), hashlib.sha256(loaded.inputs).hexdigest())
"""


def test_two_processes_at_once_prepare_once_and_get_the_same(dead_archive, tmp_path, put_by_hand):
    put_by_hand(dead_archive.path, tmp_path)
    archive = dead_archive.description
    arguments = [str(archive.size_bytes), archive.sha256, str(tmp_path)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=pathlib.Path(data.__file__).parents[2],
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    results = [output.split("RESULT ")[1].split() for output in outputs]
    assert sorted(count for count, _ in results) == ["0", "1"]
    assert len({digest for _, digest in results}) == 1


def test_nothing_is_extracted_to_the_disk(dead_archive, tmp_path, put_by_hand):
    put_by_hand(dead_archive.path, tmp_path)
    data.load("cifar10", "train", data_dir=tmp_path)
    with tarfile.open(dead_archive.path) as tar:
        names = {pathlib.Path(member.name).name for member in tar if member.isfile()}
    assert names
    assert not names & {path.name for path in tmp_path.rglob("*")}
