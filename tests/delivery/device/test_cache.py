import errno
import fcntl
import hashlib
import multiprocessing
import os

import pytest

from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.errors import CacheLimitError, DiskFullError, SegmentError


def content_of(number, size=1000):
    return bytes([number]) * size


def sha_of(content):
    return hashlib.sha256(content).hexdigest()


def put(cache, content):
    sha256 = sha_of(content)
    with cache.download(sha256, len(content)) as download:
        download.write(content)
        download.finish()
    return sha256


def names(cache):
    return sorted(path.name for path in (cache.folder / "segments").iterdir())


def test_a_segment_is_visible_only_when_it_is_whole_and_checked(cache):
    content = content_of(1)
    sha256 = sha_of(content)
    with cache.download(sha256, 1000) as download:
        download.write(content[:400])
        assert not cache.verify(sha256)
        with pytest.raises(SegmentError, match="400 of 1000 bytes"):
            download.finish()
    assert names(cache) == [f"{sha256}.part"]
    # Another process, later: goes on from the byte where the first stopped.
    with SegmentCache(cache.folder).download(sha256, 1000) as download:
        assert (download.received_bytes, download.missing_bytes) == (400, 600)
        download.write(content[400:])
        download.finish()
    assert names(cache) == [f"{sha256}.bin"]
    assert cache.verify(sha256)
    assert cache.read(sha256) == content
    assert cache.received_bytes(sha256) == 1000


def test_bytes_with_another_digest_never_become_a_segment(cache):
    sha256 = sha_of(content_of(1))
    with cache.download(sha256, 1000) as download:
        download.write(content_of(2))
        with pytest.raises(SegmentError, match=f"{sha256} arrived with SHA-256 {'[0-9a-f]' * 64}"):
            download.finish()
        # What was wrong is gone; the right bytes can follow at once.
        assert download.received_bytes == 0
        download.write(content_of(1))
        download.finish()
    assert cache.verify(sha256)


def test_more_bytes_than_the_manifest_says_are_refused(cache):
    sha256 = sha_of(content_of(1))
    with cache.download(sha256, 1000) as download:
        download.write(content_of(1, 999))
        with pytest.raises(SegmentError, match="1001 bytes; the manifest says 1000"):
            download.write(b"ab")
        assert download.received_bytes == 999


def test_a_damaged_file_is_found_and_deleted(cache):
    sha256 = put(cache, content_of(1))
    for damaged in (b"x" * 1000, content_of(1)[:-1], b""):
        put(cache, content_of(1))
        cache.path(sha256).write_bytes(damaged)
        with pytest.raises(SegmentError, match="was damaged and is now deleted"):
            cache.read(sha256)
        put(cache, content_of(1))
        cache.path(sha256).write_bytes(damaged)
        assert not cache.verify(sha256)
        assert not cache.path(sha256).exists()
    with pytest.raises(SegmentError, match="is not in"):
        cache.read(sha256)


def test_a_part_that_is_too_long_is_begun_again(cache):
    sha256 = sha_of(content_of(1))
    (cache.folder / "segments" / f"{sha256}.part").write_bytes(bytes(1001))
    with cache.download(sha256, 1000) as download:
        assert download.received_bytes == 0


def test_more_than_the_disk_has_is_refused_before_a_byte(cache):
    sha256 = sha_of(content_of(1))
    with (
        pytest.raises(DiskFullError, match=f"for {10**15} more bytes of segment"),
        cache.download(sha256, 10**15),
    ):
        pass
    assert names(cache) == []
    assert put(cache, content_of(1)) == sha256


def test_what_was_used_least_recently_goes_first(tmp_path):
    cache = SegmentCache(tmp_path, limit_bytes=3000)
    first, second, third = (put(cache, content_of(n)) for n in (1, 2, 3))
    for age, sha256 in enumerate((third, second, first)):
        os.utime(cache.path(sha256), (age, age))
    assert cache.verify(third)  # A use.
    put(cache, content_of(4))
    assert not cache.path(second).exists()
    assert cache.path(first).exists()
    assert cache.path(third).exists()
    assert cache.size_bytes() == 3000
    put(cache, content_of(5, 2500))
    assert cache.size_bytes() <= 3000


def test_what_a_running_model_needs_stays(tmp_path):
    mine = SegmentCache(tmp_path, limit_bytes=3000)
    running = [put(mine, content_of(n)) for n in (1, 2)]
    mine.pin(running)
    other = SegmentCache(tmp_path, limit_bytes=3000)
    for number in (3, 4, 5):
        put(other, content_of(number))
        assert all(mine.path(sha256).exists() for sha256 in running)
    with pytest.raises(CacheLimitError, match="limit of 3000 bytes leaves no room for the 2000"):
        put(other, content_of(6, 2000))
    assert all(mine.path(sha256).exists() for sha256 in running)
    # Once the model is gone, so may its segments be.
    mine.close()
    put(other, content_of(6, 2000))
    other.close()
    assert not list((tmp_path / "locks").glob("*.pin*"))


def pin_and_die(folder, sha256):
    SegmentCache(folder).pin([sha256])
    os._exit(0)


def test_the_pins_of_a_process_that_died_hold_nothing(tmp_path):
    cache = SegmentCache(tmp_path, limit_bytes=1500)
    sha256 = put(cache, content_of(1))
    process = multiprocessing.get_context("spawn").Process(
        target=pin_and_die, args=(tmp_path, sha256)
    )
    process.start()
    process.join()
    assert list((tmp_path / "locks").glob("*.pins"))
    put(cache, content_of(2))
    assert not cache.path(sha256).exists()
    assert not list((tmp_path / "locks").glob("*.pins"))


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def _no_locks(request, monkeypatch):
    """As on some file systems of clusters."""

    def refuse(*args):
        code = getattr(errno, request.param)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("_no_locks")
def test_where_there_are_no_locks_work_goes_on_and_pins_hold(tmp_path):
    mine = SegmentCache(tmp_path, limit_bytes=3000)
    running = [put(mine, content_of(n)) for n in (1, 2)]
    mine.pin(running)
    other = SegmentCache(tmp_path, limit_bytes=3000)
    with other.claim([sha_of(content_of(3))]) as claimed:
        assert claimed == (sha_of(content_of(3)),)
        for number in (3, 4, 5):
            put(other, content_of(number))
            assert all(mine.path(sha256).exists() for sha256 in running)
    # Those of a process that died hold for a day, not for ever.
    for path in (tmp_path / "locks").glob("*.pins"):
        os.utime(path, (0, 0))
    put(other, content_of(6, 2500))
    other.close()


def test_a_claim_keeps_others_out(cache):
    other = SegmentCache(cache.folder)
    digests = [sha_of(content_of(n)) for n in range(4)]
    with cache.claim(digests[2:3]) as mine:
        assert mine == (digests[2],)
        with other.claim(digests) as theirs:
            assert theirs == tuple(digests[:2])
    with other.claim(digests) as theirs:
        assert theirs == tuple(digests)


class FullDisk:
    """A file whose disk is full after some bytes."""

    def __init__(self, file, room, code):
        self._file, self.room, self._code = file, room, code

    def write(self, data):
        if not self.room:
            raise OSError(self._code, os.strerror(self._code))
        taken = data[: self.room]
        self.room -= len(taken)
        return self._file.write(taken)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_what_was_written(cache, code):
    content = content_of(1)
    sha256 = sha_of(content)
    held = put(cache, content_of(9))
    cache.pin([held])
    with cache.download(sha256, 1000) as download:
        download._file = FullDisk(download._file, 300, code)
        with pytest.raises(DiskFullError, match="for the last 700 of 1000 bytes"):
            download.write(content)
    assert cache.verify(held)
    with cache.download(sha256, 1000) as download:
        assert download.received_bytes == 300
        download.write(content[300:])
        download.finish()
    assert cache.read(sha256) == content


def test_a_full_disk_first_takes_back_what_nobody_needs(cache):
    content = content_of(1)
    unneeded = put(cache, content_of(9))
    with cache.download(sha_of(content), 1000) as download:
        disk = download._file = FullDisk(download._file, 300, errno.ENOSPC)
        evict = cache._evict

        def evict_and_free(**kwargs):
            disk.room = evict(**kwargs)
            return disk.room

        cache._evict = evict_and_free
        download.write(content)
        download.finish()
    assert not cache.path(unneeded).exists()
    assert cache.verify(sha_of(content))


def test_manifests_are_kept_by_source_and_by_id(cache):
    one, two = "1" * 64, "2" * 64
    assert cache.load_manifest("http://a") is None
    cache.save_manifest(one, b"first")
    assert cache.load_manifest("http://a") is None
    cache.save_manifest(two, b"second")
    cache.use_manifest("http://a", one)
    cache.use_manifest("http://a", two)
    cache.use_manifest("http://b", one)
    again = SegmentCache(cache.folder)
    assert again.load_manifest("http://a") == b"second"
    assert again.load_manifest("http://a", one) == b"first"
    assert again.load_manifest("http://b") == b"first"
    assert again.load_manifest("http://b", "3" * 64) is None


def test_nothing_outside_the_folder_can_be_named(cache):
    for name in ("../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", ""):
        with pytest.raises(ValueError, match="is not a SHA-256"):
            cache.path(name)
    with pytest.raises(ValueError, match="limit_bytes=0 must be positive"):
        SegmentCache(cache.folder, limit_bytes=0)
