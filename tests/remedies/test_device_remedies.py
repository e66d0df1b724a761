"""What a device tells people to do helps."""

import errno
import os
import re
import shutil

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.errors import (
    CacheError,
    CacheLimitError,
    DeliveryError,
    DiskFullError,
    SegmentError,
    TransportError,
)
from accordion_jax.delivery.runtimes.runtime import Runtime
from tests.delivery.checks import in_use, with_base
from tests.delivery.device.test_cache import content_of, put, sha_of
from tests.delivery.forests import write_forest
from tests.delivery.servers import serving as serving_bundle
from tests.remedies.refusals import refused


@pytest.fixture
def cache(tmp_path):
    cache = SegmentCache(tmp_path / "cache")
    yield cache
    cache.close()


@pytest.mark.tries("name another folder, one that can be written (--cache=FOLDER)")
def test_another_folder_of_the_cache(tmp_path):
    (tmp_path / "file").touch()
    with refused(CacheError) as said:
        SegmentCache(tmp_path / "file")
    assert "name another folder" in said[0]
    assert "(--cache=FOLDER)" in said[0]
    SegmentCache(tmp_path / "folder").close()


@pytest.mark.tries("; fetch it again", "fetch the segment again", "ask for it again", "ask again")
def test_a_segment_is_fetched_again(cache):
    content = content_of(1)
    sha256 = sha_of(content)
    with refused(SegmentError) as said:
        cache.read(sha256)
    assert said[0].endswith("fetch it again")
    put(cache, content)
    assert cache.read(sha256) == content
    cache.path(sha256).write_bytes(b"damaged")
    with refused(SegmentError) as said:
        cache.read(sha256)
    assert said[0].endswith("fetch the segment again")
    put(cache, content)
    assert cache.read(sha256) == content
    cache.path(sha256).unlink()
    with cache.download(sha256, 1000) as download, refused(SegmentError) as said:
        download.write(bytes(1001))
    assert said[0].endswith("ask for it again")
    with cache.download(sha256, 1000) as download, refused(SegmentError) as said:
        download.write(content_of(2))
        download.finish()
    assert said[0].endswith("ask again")
    put(cache, content)
    assert cache.read(sha256) == content


@pytest.mark.tries("write the rest before finishing", "fetch the segment again")
def test_a_download_that_is_not_whole(cache):
    content = content_of(1)
    sha256 = sha_of(content)
    with cache.download(sha256, 1000) as download:
        download.write(content[:400])
        with refused(SegmentError) as said:
            download.finish()
        assert said[0].endswith("write the rest before finishing")
        download.write(content[400:])
        (part,) = (cache.folder / "segments").glob("*.part")
        part.unlink()
        with refused(SegmentError) as said:
            download.finish()
        assert said[0].endswith("fetch the segment again")
    put(cache, content)
    assert cache.read(sha256) == content


@pytest.mark.tries("free some, or put the cache elsewhere")
@pytest.mark.parametrize("when", ["announced", "opened", "written"])
def test_room_is_made_or_found_elsewhere(cache, tmp_path, monkeypatch, when):
    content = content_of(1)
    sha256 = sha_of(content)
    with monkeypatch.context() as patch, refused(DiskFullError) as said:
        if when == "announced":
            patch.setattr(cache, "_free_bytes", lambda: 10)
            put(cache, content)
        elif when == "opened":
            patch.setattr("pathlib.Path.open", full)
            put(cache, content)
        else:
            with cache.download(sha256, 1000) as download:
                download._file.close()
                download._file = Full()
                download.write(content)
    assert said[0].endswith("free some, or put the cache elsewhere")
    put(cache, content)  # some was freed
    assert cache.read(sha256) == content
    elsewhere = SegmentCache(tmp_path / "elsewhere")
    put(elsewhere, content)
    elsewhere.close()


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full:
    closed = False
    write = full

    def close(self):
        pass


@pytest.mark.tries("raise the limit to at least", "Raise it, or ask for less with max_bytes")
def test_a_limit_that_is_raised_as_far_as_it_says(toy_bundle, make_device, tmp_path):
    cache = SegmentCache(tmp_path / "limited", limit_bytes=1500)
    first, second = content_of(1), content_of(2)
    sha256 = put(cache, first)
    cache.pin({sha256})
    with refused(CacheLimitError) as said:
        put(cache, second)
    cache.limit_bytes = int(re.search(r"raise the limit to at least (\d+)$", said[0])[1])
    put(cache, second)
    cache.close()

    with serving_bundle(toy_bundle) as (url, _):
        sizes = [segment.size_bytes for segment in read_manifest(toy_bundle).segments]
        device = make_device(url, limit_bytes=sum(sizes[:3]))
        device.connect()
        with refused(CacheLimitError) as said:
            device.upgrade()
        needed, limit = map(int, re.findall(r"needs (\d+) bytes .* limit is (\d+)", said[0])[0])
        assert said[0].endswith("Raise it, or ask for less with max_bytes")
        outcome = device.fetch(max_bytes=limit)
        assert outcome.configuration == "toy-2", outcome
        device.cache.limit_bytes = needed
        assert device.upgrade().configuration == "toy-5"


@pytest.mark.tries(
    "the device has no manifest yet; call connect() first",
    "give depth or max_macs to step down to; got neither",
    "fetch once while the network is there",
    "; call wait() first",
)
def test_a_device_that_is_called_in_order(toy_bundle, tmp_path, make_device):
    with serving_bundle(toy_bundle) as (url, _):
        device = make_device(url)
        with refused(DeliveryError) as said:
            device.fetch()
        assert said[0].endswith("call connect() first")
        with refused(TransportError) as said:
            device.connect(offline=True)
        assert said[0].endswith("fetch once while the network is there")
        device.connect()
        device.upgrade()
        with refused() as said:
            device.step_down()
        assert said[0].startswith("give depth or max_macs")
        assert device.step_down(depth=1).name == "toy-1"
        assert device.step_down(max_macs=1000).name == "toy-0"
    device.close()
    device = make_device(url)
    device.connect(offline=True)
    assert in_use(device) == "toy-5"


@pytest.mark.tries("; call wait() first")
def test_who_waits_gets_predictions(tmp_path, make_device, monkeypatch):
    bundle, _, rows, _ = write_forest(tmp_path / "bundles")
    with serving_bundle(bundle) as (url, _):
        device = make_device(url)
        device.connect()
        device.fetch(max_bytes=0)
        runtime = Runtime(device)
        try:
            with refused(DeliveryError) as said:
                runtime.predict(rows[:3])
            assert said[0].endswith("call wait() first")
            device.upgrade()
            runtime.wait()
            assert len(runtime.predict(rows[:3])) == 3
        finally:
            runtime.close()


@pytest.mark.tries("Try another server, or write the bundle again")
def test_a_segment_that_arrives_damaged_from_one_server(toy_bundle, make_device, tmp_path):
    damaged = tmp_path / toy_bundle.name
    shutil.copytree(toy_bundle, damaged)
    path = segment_path(damaged, read_manifest(toy_bundle).segments[2].sha256)
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with serving_bundle(damaged) as (bad, _), serving_bundle(toy_bundle) as (good, _):
        device = with_base(make_device, bad)
        problems = device.upgrade().problems
        assert problems[-1].endswith("Try another server, or write the bundle again")
        device.close()
        device = make_device(good)
        device.connect()
        assert device.upgrade().configuration == "toy-5"
        path.write_bytes(right)
        device = make_device(bad, "mended")
        device.connect()
        assert device.upgrade().configuration == "toy-5"
