"""Small CIFAR archives in the original layout, and a local web server that offers them."""

import dataclasses
import functools
import hashlib
import http.server
import pathlib
import shutil
import tarfile
import threading

import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.data import cifar, preparation

RECORDS_A_FILE = 7


@dataclasses.dataclass(frozen=True)
class SmallArchive:
    """An archive with few records, and what is in it: {split: (images, labels)}."""

    path: pathlib.Path
    description: preparation.Archive
    arrays: dict[str, tuple[np.ndarray, np.ndarray]]

    def at(self, url: str) -> preparation.Archive:
        return dataclasses.replace(self.description, url=url)


def _make_archive(name: str, folder: pathlib.Path, *, leave_out="", spoil="") -> SmallArchive:
    """Writes an archive of random images; `leave_out` drops a file, `spoil` cuts a byte off one."""
    real = cifar.ARCHIVES[name]
    content = folder / real.folder
    content.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    arrays = {}
    for split, files in (("train", real.train_files), ("test", real.test_files)):
        n = RECORDS_A_FILE * len(files)
        images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        labels = rng.integers(0, cifar.NUM_CLASSES[name], n).astype(np.int32)
        columns = [labels[:, None], images.transpose(0, 3, 1, 2).reshape(n, -1)]
        if name == "cifar100":
            columns.insert(0, labels[:, None] // 5)
        records = np.concatenate(columns, 1).astype(np.uint8)
        for file, part in zip(files, np.split(records, len(files)), strict=True):
            part.tofile(content / file)
        arrays[split] = images, labels
    for label, file in real.label_files.items():
        count = 20 if label == "coarse_label" else cifar.NUM_CLASSES[name]
        (content / file).write_text("".join(f"{label}_{i}\n" for i in range(count)) + "\n")
    if leave_out:
        (content / leave_out).unlink()
    if spoil:
        (content / spoil).write_bytes((content / spoil).read_bytes()[:-1])
    path = folder / real.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.add(content, arcname=real.folder)
    return SmallArchive(path, _describe(name, path), arrays)


def _describe(name: str, path: pathlib.Path) -> preparation.Archive:
    """Returns the description of the archive at `path`, whatever is in it; the URL is dead."""
    return dataclasses.replace(
        cifar.ARCHIVES[name],
        # Nothing listens on port 1: the connection is refused.
        url=f"http://127.0.0.1:1/{path.name}",
        size_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


# Functions as fixtures: which `conftest` an import finds depends on the layout of the tests.
@pytest.fixture
def make_archive():
    return _make_archive


@pytest.fixture
def describe():
    return _describe


@pytest.fixture
def put_by_hand():
    return _put_by_hand


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def small_archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return {name: _make_archive(name, folder) for name in cifar.ARCHIVES}


@pytest.fixture
def server(small_archives):
    """Serves the folder of the small archives; `.hits` lists the paths asked for."""
    hits: list[str] = []

    class Server(http.server.ThreadingHTTPServer):
        hits: list[str]
        url: str

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            hits.append(self.path)

    folder = small_archives["cifar10"].path.parent
    handler = functools.partial(Handler, directory=str(folder))
    with Server(("127.0.0.1", 0), handler) as httpd:
        httpd.hits = hits
        httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def dead_archive(monkeypatch, small_archives):
    """CIFAR-10 whose address refuses connections."""
    archive = small_archives["cifar10"]
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive.description)
    return archive


def _put_by_hand(archive: pathlib.Path, data_dir: pathlib.Path) -> None:
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True, exist_ok=True)
    shutil.copy(archive, manual)


@pytest.fixture(scope="session")
def _prepared_once(tmp_path_factory, small_archives):
    data_dir = tmp_path_factory.mktemp("prepared")
    archive = small_archives["cifar10"]
    _put_by_hand(archive.path, data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cifar.ARCHIVES, "cifar10", archive.description)
        data.load("cifar10", "train", data_dir=data_dir)
    return data_dir


@pytest.fixture
def prepared(_prepared_once, dead_archive, tmp_path):
    """A data folder of one's own with the small CIFAR-10, its train split cached; no network."""
    data_dir = tmp_path / "prepared"
    shutil.copytree(_prepared_once, data_dir)
    shutil.rmtree(data_dir / "downloads")
    return data_dir
