"""CIFAR-10 and CIFAR-100 as arrays, through TFDS and without TensorFlow.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

TFDS keeps the images as PNG files, and decoding 60,000 of them takes several seconds. It is done
once: the arrays are kept beside TFDS's record files, in `DATA_DIR/NAME/VERSION`, and so go when
that folder goes. The cache is only a cache: it is checked when it is read, rebuilt where it is
damaged, and done without where the folder can't be written.
"""

import io
import json
import logging
import pathlib
import time
import types

import numpy as np

from accordion_jax.data import preparation
from accordion_jax.data.dataset import Dataset, DatasetUnavailableError
from accordion_jax.system.files import replacing
from accordion_jax.system.locks import locked
from accordion_jax.tasks import Images

_log = logging.getLogger(__name__)

_IMAGE_SHAPE = (32, 32, 3)
_DECODE_AT_ONCE = 1000

# Sizes and checksums are those that TFDS registers.
ARCHIVES = {
    "cifar10": preparation.Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size_bytes=170052171,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test_files=("test_batch.bin",),
        label_files=types.MappingProxyType({"label": "batches.meta.txt"}),
    ),
    "cifar100": preparation.Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size_bytes=168513733,
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        train_files=("train.bin",),
        test_files=("test.bin",),
        label_files=types.MappingProxyType(
            {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"}
        ),
    ),
}
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
# Of the 50,000 training images, pixels divided by 255; a test computes them again.
MEAN = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
STD = {"cifar10": (0.2470, 0.2435, 0.2616), "cifar100": (0.2673, 0.2564, 0.2762)}


def load_cifar(name: str, split: str, data_dir: pathlib.Path) -> Dataset:
    """Returns the "train" (50,000 images) or "test" (10,000) split of a CIFAR data set.

    The order is that of TFDS's record files: shuffled, and the same wherever the same archive was
    prepared. Processes that start together wait for the one that prepares.

    Args:
      name: "cifar10" or "cifar100" (its fine labels).
      split: "train" or "test".
      data_dir: TFDS's data folder. Where the data set isn't prepared in it, it is prepared.

    Returns:
      inputs [n, 32, 32, 3] uint8, targets [n] int32.

    Raises:
      DatasetUnavailableError: it is neither prepared nor can it be, or it can't be read.
    """
    arrays = _read_cache(name, split, data_dir)
    if arrays is None:
        lock = data_dir / f".accordion-{name}.lock"
        # Without locks (a read-only folder, some network file systems) work may be done twice.
        with locked(lock, wait=True, on_wait=lambda: _log.info("Waiting for %s", lock)):
            # Whoever had the lock before may have written it.
            arrays = _read_cache(name, split, data_dir)
            if arrays is None:
                arrays = _prepare_and_decode(name, split, data_dir)
    images, labels = arrays
    return Dataset(
        name=name,
        task=Images(_IMAGE_SHAPE, MEAN[name], STD[name]),
        inputs=images,
        targets=labels,
        num_classes=NUM_CLASSES[name],
    )


def _prepare_and_decode(
    name: str, split: str, data_dir: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images, labels) from TFDS's record files, made where need be, and caches them."""
    folder = _prepared_folder(name, data_dir)
    if folder is None:
        try:
            preparation.prepare(name, ARCHIVES[name], data_dir)
        except DatasetUnavailableError:
            # Where there are no file locks, another process may have been faster.
            if _prepared_folder(name, data_dir) is None:
                raise
        folder = _prepared_folder(name, data_dir)
    if folder is None:
        raise DatasetUnavailableError(
            f"{name}: TFDS found something in {data_dir / name} and left it, but it is not a whole "
            "data set (a version folder with dataset_info.json). Delete that folder and try again."
        )
    images, labels = _decode(name, split, folder)
    _write_cache(_cache_path(folder, split), images, labels)
    return images, labels


def _prepared_folder(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest version's folder, or None. TFDS renames it into place when it is whole."""
    versions = {}
    for info in (data_dir / name).glob("*/dataset_info.json"):
        parts = info.parent.name.split(".")
        if all(part.isdecimal() for part in parts):
            versions[tuple(int(part) for part in parts)] = info.parent
    return versions[max(versions)] if versions else None


def _num_examples(folder: pathlib.Path, split: str) -> int:
    """Returns the size of a split by TFDS's own description of the data set."""
    info = json.loads((folder / "dataset_info.json").read_text())
    sizes = {s["name"]: sum(int(n) for n in s["shardLengths"]) for s in info["splits"]}
    return sizes[split]


def _decode(name: str, split: str, folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images [n, 32, 32, 3] uint8, labels [n] int32), decoded from the record files."""
    # Imported here: a second start, which reads the cache, does without.
    import tensorflow_datasets as tfds
    from PIL import Image

    start = time.monotonic()
    try:
        # The images' bytes, decoded below: TFDS's own decoding of an example takes twice as long.
        source = tfds.builder_from_directory(folder).as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        images = np.empty((len(source), *_IMAGE_SHAPE), np.uint8)
        labels = np.empty(len(source), np.int32)
        for first in range(0, len(source), _DECODE_AT_ONCE):
            indices = range(first, min(first + _DECODE_AT_ONCE, len(source)))
            for i, example in zip(indices, source.__getitems__(list(indices)), strict=True):
                images[i] = np.asarray(Image.open(io.BytesIO(example["image"])))
                labels[i] = example["label"]
    except NotImplementedError as error:
        raise DatasetUnavailableError(
            f"{name} in {folder} is prepared in a format that only TensorFlow can read; wanted "
            "array_record. Set --config.data.dir (or TFDS_DATA_DIR) to another folder, or delete "
            "this one: it is then prepared again."
        ) from error
    except Exception as error:  # array_record, protobuf and Pillow each have their own.
        raise DatasetUnavailableError(
            f"{name} in {folder} can't be read: {error!r}. Delete that folder: it is then prepared "
            "again."
        ) from error
    _log.info("Decoded %s %s in %.0f s", name, split, time.monotonic() - start)
    return images, labels


def _cache_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"accordion-{split}.npz"


def _read_cache(
    name: str, split: str, data_dir: pathlib.Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (images, labels) of a cache that is whole and has the right shapes, or None."""
    folder = _prepared_folder(name, data_dir)
    if folder is None or not (path := _cache_path(folder, split)).exists():
        return None
    try:
        n = _num_examples(folder, split)
        # Opened here: where the zip is damaged, np.load leaves a file that it opened open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]  # The zip's CRC-32 is checked here.
        _check(images, (n, *_IMAGE_SHAPE), np.uint8)
        _check(labels, (n,), np.int32)
        if n and not 0 <= labels.min() <= labels.max() < NUM_CLASSES[name]:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except Exception as error:  # A damaged zip can raise nearly anything; all mean: rebuild.
        _log.warning("The cache %s is damaged and is built again: %r", path, error)
        return None
    return images, labels


def _check(array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{array.dtype} {array.shape}, wanted {np.dtype(dtype)} {shape}")


def _write_cache(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes the cache whole or not at all; where the folder can't be written, goes on without."""
    try:
        with replacing(path) as temporary:
            np.savez(temporary, images=images, labels=labels)
    except OSError as error:
        _log.warning("No cache at %s; each start decodes the images again: %r", path, error)
