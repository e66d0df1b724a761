import datetime
import logging
import os

import fsspec
import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.store import CHUNK_BYTES, BundleStore
from accordion_jax.delivery.errors import SegmentError, StorageError
from tests.delivery.toys import make_parts


def ids(store):
    return [model.manifest.model_id for model in store.models()]


def test_new_bundles_appear_and_old_ones_go(tmp_path):
    store = BundleStore(str(tmp_path), refresh_s=0)
    assert ids(store) == []
    bundle = write_bundle(tmp_path, **make_parts())
    assert ids(store) == [bundle.name]
    assert store.model(bundle.name).manifest == read_manifest(bundle)
    bundle.rename(tmp_path / "elsewhere")
    assert ids(store) == []
    assert store.model(bundle.name) is None


def test_a_listing_is_current_for_a_while(tmp_path):
    store = BundleStore(str(tmp_path), refresh_s=3600)
    assert ids(store) == []
    bundle = write_bundle(tmp_path, **make_parts())
    assert ids(store) == []
    assert store.known(bundle.name) is None


def test_latest_is_what_no_one_follows_then_the_newest(tmp_path):
    other = write_bundle(tmp_path, **make_parts(seed=1))
    old = write_bundle(tmp_path, **make_parts(seed=2))
    new = write_bundle(tmp_path, **make_parts(seed=3), follows=old.name)
    for bundle, day in ((old, 3), (new, 2), (other, 1)):
        time = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC).timestamp()
        os.utime(bundle / "manifest.json", (time, time))
    store = BundleStore(str(tmp_path))
    assert ids(store) == [new.name, other.name, old.name]
    assert store.models()[0].created == datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def test_broken_bundles_are_skipped_with_a_reason_and_logged_once(tmp_path, caplog):
    good = write_bundle(tmp_path, **make_parts())
    bad = write_bundle(tmp_path, **make_parts(seed=1))
    (bad / "manifest.json").write_bytes(b'{"format": "accordion-bundle", "format_version": 7}')
    empty = tmp_path / ("0" * 64)
    empty.mkdir()
    (tmp_path / "notes.txt").write_text("not a bundle")
    store = BundleStore(str(tmp_path), refresh_s=0)
    with caplog.at_level(logging.WARNING):
        assert ids(store) == [good.name]
        assert ids(store) == [good.name]
    assert store.skipped().keys() == {bad.name, empty.name}
    assert "format_version=7" in store.skipped()[bad.name]
    assert len(caplog.records) == 2
    # A manifest of another model does not pass for this one.
    (empty / "manifest.json").write_bytes((good / "manifest.json").read_bytes())
    assert ids(store) == [good.name]
    assert "wanted 0000" in store.skipped()[empty.name]


def test_a_folder_that_is_gone_is_an_error_that_ends(tmp_path):
    folder = tmp_path / "bundles"
    store = BundleStore(str(folder), refresh_s=0)
    with pytest.raises(StorageError, match="cannot be listed"):
        store.models()
    bundle = write_bundle(folder, **make_parts())
    assert ids(store) == [bundle.name]
    with pytest.raises(StorageError, match="cannot be opened"):
        BundleStore("nothing-of-the-kind://x")


@pytest.fixture
def in_memory(tmp_path):
    """The same bundle in a folder and at a memory:// URL."""
    bundle = write_bundle(tmp_path, **make_parts())
    fs = fsspec.filesystem("memory")
    fs.put(str(bundle), f"/store/{bundle.name}", recursive=True)
    yield bundle, "memory://store"
    fs.rm("/store", recursive=True)


def test_any_url_that_fsspec_reads(in_memory):
    bundle, url = in_memory
    store = BundleStore(url, refresh_s=0)
    [model] = store.models()
    assert model.manifest == read_manifest(bundle)
    digests = list(model.manifest.by_sha256)
    store.check_segments(model, digests)
    whole = b"".join(segment_path(bundle, sha256).read_bytes() for sha256 in digests)
    assert b"".join(store.read(model, digests, 5, len(whole) - 7)) == whole[5:-7]


def test_reads_any_part_of_any_order_in_bounded_chunks(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=4, width=220))
    store = BundleStore(str(tmp_path))
    [model] = store.models()
    digests = [s.sha256 for s in reversed(model.manifest.segments)]
    whole = b"".join(segment_path(bundle, sha256).read_bytes() for sha256 in digests)
    first = model.manifest.by_sha256[digests[0]].size_bytes
    edges = [0, 1, first - 1, first, first + 1, CHUNK_BYTES, 2 * first, len(whole)]
    for start in edges:
        for stop in edges:
            chunks = list(store.read(model, digests, start, stop))
            assert b"".join(chunks) == whole[start:stop]
            assert all(len(chunk) == CHUNK_BYTES for chunk in chunks[:-1])


def test_damaged_segments_are_noticed(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    store = BundleStore(str(tmp_path))
    [model] = store.models()
    digests = list(model.manifest.by_sha256)
    store.check_segments(model, digests)
    path = segment_path(bundle, digests[1])
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(SegmentError, match=f"has {len(data) - 1} bytes, its manifest says"):
        store.check_segments(model, digests)
    with pytest.raises(SegmentError, match="ended at byte"):
        list(store.read(model, digests, 0, model.manifest.size_bytes))
    path.unlink()
    with pytest.raises(SegmentError, match="is missing"):
        store.check_segments(model, digests)
