"""Prepares CIFAR as a TFDS data set on a machine without TensorFlow.

TFDS can read an array_record data set without TensorFlow, and nearly make one: three of the steps
from the archive to the record files import it. Those three are replaced here, by overriding methods
of TFDS's own builder; the result is the data set that `tfds build cifar10` makes.

| step | TFDS | here |
| --- | --- | --- |
| download, checksum | its download manager | the same, after a look whether the server answers |
| unpack | `tf.io.gfile` | `tarfile`, in memory: nothing is extracted to the disk |
| read the records | `tf.io.gfile` | NumPy |
| encode as PNG | a TensorFlow graph | Pillow; the builder takes encoded bytes as they are |
| shuffle, write | its array_record writer | the same |
"""

import contextlib
import dataclasses
import io
import logging
import pathlib
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from accordion_jax.data.dataset import DatasetUnavailableError
from accordion_jax.system.room import why_no_room

_log = logging.getLogger(__name__)

_SIZE = 32
_PIXEL_BYTES = 3 * _SIZE * _SIZE
# Seconds to wait for the server to accept a connection, and then for its first byte.
_ANSWER_TIMEOUT_S = 10.0
_LOG_EVERY = 10_000


@dataclasses.dataclass(frozen=True)
class Archive:
    """The original archive of a CIFAR data set, and how its records are laid out.

    A record is one byte a label, then 3 x 32 x 32 bytes of pixels, channel by channel.

    Attributes:
      url: where it is downloaded from.
      size_bytes: its size.
      sha256: its checksum, as 64 hexadecimal digits.
      folder: the folder inside it that holds the files.
      train_files: files of records of the training split, in order.
      test_files: files of records of the test split, in order.
      label_files: label name in TFDS -> file with the names of its classes; in record order.
    """

    url: str
    size_bytes: int
    sha256: str
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    label_files: Mapping[str, str]

    @property
    def filename(self) -> str:
        """The last part of the URL: what the file is called in the `manual` folder."""
        return self.url.rsplit("/", 1)[-1]


def prepare(name: str, archive: Archive, data_dir: pathlib.Path) -> None:
    """Downloads a CIFAR data set and writes it under data_dir as TFDS does.

    An archive that TFDS has downloaded before, or that was put by hand into
    `data_dir/downloads/manual`, is used instead of a download. Progress bars are drawn on a
    terminal; elsewhere a log line now and then says how far it is. Call it under a lock.

    Args:
      name: "cifar10" or "cifar100": which of TFDS's builders to run.
      archive: what to download.
      data_dir: TFDS's data folder; the result is `data_dir/name/VERSION`.

    Raises:
      DatasetUnavailableError: no answer from the server, a wrong checksum, a damaged archive, or a
        folder that can't be written; says which, and what to do.
    """
    start = time.monotonic()
    with _bars_on_a_terminal_only():
        path = _download(name, archive, data_dir)
        members = _read_archive(name, archive, path)
        builder = _builder(name, archive, members, data_dir)
        _log.info("Preparing %s in %s", name, builder.data_dir)
        import tensorflow_datasets as tfds

        config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config)
        except OSError as error:
            _refuse_a_full_disk(name, data_dir, error)
            raise DatasetUnavailableError(
                f"{name} could not be written to {builder.data_dir}: {error!r}. Set --config.data."
                "dir (or TFDS_DATA_DIR) to a folder that can be written and has 0.5 GB of room."
            ) from error
    _log.info("Prepared %s in %.0f s", name, time.monotonic() - start)


def _refuse_a_full_disk(name: str, data_dir: pathlib.Path, error: BaseException) -> None:
    if why := why_no_room(error):
        raise DatasetUnavailableError(
            f"{name}: no room in {data_dir} ({why}). Make 0.5 GB of room and try again, or set "
            "--config.data.dir (or TFDS_DATA_DIR) to a folder that has it."
        ) from error


@contextlib.contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    """Turns TFDS's progress bars off where they would fill a log file, and back afterwards."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import tqdm_utils

    before = getattr(tqdm_utils, "_active", True)
    tfds.display_progress_bar(before and sys.stderr.isatty())
    try:
        yield
    finally:
        tfds.display_progress_bar(before)


def _download(name: str, archive: Archive, data_dir: pathlib.Path) -> pathlib.Path:
    """Returns the path of the archive, downloaded unless it is there, its checksum verified."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums, download_manager

    class Manager(tfds.download.DownloadManager):
        """Asks whether the server answers before it downloads.

        TFDS sets no timeout and tries a dead connection ten times, over three and a half minutes:
        too long to learn that a machine has no network.
        """

        def _download(self, resource):
            # `stream` leaves the body unread: this costs one round trip.
            with requests.get(resource.url, stream=True, timeout=_ANSWER_TIMEOUT_S) as response:
                response.raise_for_status()
            _log.info("Downloading %s (%.0f MB)", resource.url, archive.size_bytes / 1e6)
            return super()._download(resource)

    downloads = data_dir / "downloads"
    manual = downloads / "manual"
    what_to_do = (
        f"Either (1) load {name} once on a machine with a network and copy its folder to "
        f"{data_dir / name}; or (2) put the archive itself at {manual / archive.filename}; or "
        "(3) set --config.data.dir (or TFDS_DATA_DIR) to a folder where it is prepared."
    )
    url_info = checksums.UrlInfo(
        size=tfds.core.utils.Size(archive.size_bytes),
        checksum=archive.sha256,
        filename=archive.filename,
    )
    try:
        manager = Manager(
            download_dir=downloads,
            manual_dir=manual,
            dataset_name=name,
            url_infos={archive.url: url_info},
            force_checksums_validation=True,
        )
        return pathlib.Path(manager.download(archive.url))
    except download_manager.NonMatchingChecksumError as error:
        raise DatasetUnavailableError(
            f"{name}: the archive is not the one that is wanted, and was not used. {error}\n"
            "A cut-off download, a proxy's error page or another file under that name gives this. "
            f"Delete that file and try again. {what_to_do}"
        ) from error
    # The exceptions of `requests` are OSErrors.
    except (OSError, tfds.download.DownloadError) as error:
        _refuse_a_full_disk(name, data_dir, error)
        raise DatasetUnavailableError(
            f"{name} is not prepared in {data_dir}, and downloading {archive.url} failed with "
            f"{type(error).__name__}: {error}\n{what_to_do}"
        ) from error


def _read_archive(name: str, archive: Archive, path: pathlib.Path) -> dict[str, bytes]:
    """Returns {file: its bytes} of the files that the archive must have."""
    wanted = {*archive.train_files, *archive.test_files, *archive.label_files.values()}
    members = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                folder, _, file = member.name.removeprefix("./").rpartition("/")
                if folder == archive.folder and file in wanted and member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None  # It is a regular file.
                    members[file] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetUnavailableError(
            f"{name}: the archive {path} can't be unpacked: {error!r}. Delete it and try again."
        ) from error
    record_bytes = len(archive.label_files) + _PIXEL_BYTES
    for file in sorted(wanted):
        if file not in members:
            raise DatasetUnavailableError(
                f"{name}: the archive {path} has no {archive.folder}/{file}; it has to be the "
                f"binary version, as at {archive.url}. Delete it and try again."
            )
        if file.endswith(".bin") and len(members[file]) % record_bytes:
            raise DatasetUnavailableError(
                f"{name}: {archive.folder}/{file} in the archive {path} has {len(members[file])} "
                f"bytes, not a multiple of the {record_bytes} of a record. Delete the archive and "
                "try again."
            )
    return members


def _builder(
    name: str, archive: Archive, members: Mapping[str, bytes], data_dir: pathlib.Path
) -> Any:
    """Returns TFDS's builder for `name`, made to read `members` and to need no TensorFlow."""
    from tensorflow_datasets.image_classification import cifar

    base: Any = {"cifar10": cifar.Cifar10, "cifar100": cifar.Cifar100}[name]

    # A subclass that isn't registered: `tfds.builder(name)` still gives TFDS's own.
    class Builder(base, skip_registration=True):  # type: ignore[call-arg]
        def _split_generators(self, dl_manager):
            del dl_manager  # The archive is here already.
            for label, file in archive.label_files.items():
                self.info.features[label].names = members[file].decode().split()
            return {
                "train": self._generate_examples("train", archive.train_files),
                "test": self._generate_examples("test", archive.test_files),
            }

        def _generate_examples(self, split, files):
            start = time.monotonic()
            index = 0
            for file in files:
                for labels, png in _records(members[file], len(archive.label_files)):
                    # Key and id as in TFDS's own builder: the key decides the shuffled order.
                    example = dict(zip(archive.label_files, labels, strict=True))
                    yield index, {**example, "image": png, "id": f"{split}_{index:05d}"}
                    index += 1
                    if index % _LOG_EVERY == 0 and not sys.stderr.isatty():
                        rate = index / (time.monotonic() - start)
                        _log.info("%s %s: %d examples, %.0f a second", name, split, index, rate)

    Builder.name = name
    return Builder(data_dir=str(data_dir), file_format="array_record")


def _records(content: bytes, num_labels: int) -> Iterator[tuple[list[int], io.BytesIO]]:
    """Yields (labels, PNG file) of each record."""
    from PIL import Image

    rows = np.frombuffer(content, np.uint8).reshape(-1, num_labels + _PIXEL_BYTES)
    for row in rows:
        pixels = row[num_labels:].reshape(3, _SIZE, _SIZE).transpose(1, 2, 0)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        png.seek(0)
        yield row[:num_labels].tolist(), png
