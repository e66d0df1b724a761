"""A release in a front on a web server may be older than the one beside it: what then counts."""

import contextlib
import datetime
import shutil

import httpx
import pytest

from accordion_jax.delivery.bundle.front import read_head
from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.reading import read_manifest, verify_bundle
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import TrustError
from tests.delivery.checks import in_use
from tests.delivery.counting import counting
from tests.delivery.signing import DAY, NOW, Line, make_keys
from tests.delivery.toys import make_parts
from tests.delivery.webserver import plain_web_server

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def line(tmp_path):
    return Line.start(tmp_path)


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundles", **make_parts(blocks=1))


@contextlib.contextmanager
def pinned(bundle, folder, trust, now=NOW):
    """(device that has pinned a trust file, Count of what it asks a web server)."""
    with (
        plain_web_server(bundle.parent) as url,
        counting(f"{url}/{bundle.name}") as (url, count),
        httpx.Client() as client,
    ):
        device = Device(HttpTransport(url, client=client), SegmentCache(folder), trust=trust)
        device.pins.now = lambda: now
        yield device, count
        device.close()


def release_in(bundle):
    data = (bundle / "front").read_bytes()
    position = 0

    def take(count):
        nonlocal position
        position += count
        return data[position - count : position]

    return read_head(take, "it").release


def without_new_front(bundle, sign):
    """What somebody does who replaces the release alone."""
    before = (bundle / "front").read_bytes()
    sign()
    (bundle / "front").write_bytes(before)
    verify_bundle(bundle)


def test_signing_puts_the_release_into_the_front_each_time(bundle, line):
    assert release_in(bundle) is None
    for expires in (NOW + DAY, NOW + 2 * DAY):
        line.sign(bundle, expires=expires)
        assert release_in(bundle) == (bundle / "release.json").read_bytes()
    # Writing the bundle again keeps it.
    write_bundle(bundle.parent, **make_parts(blocks=1))
    assert release_in(bundle) == (bundle / "release.json").read_bytes()


def test_a_release_that_no_device_reads_is_in_no_front(bundle):
    for content in (b"", bytes((1 << 19) + 1)):
        (bundle / "release.json").write_bytes(content)
        write_front(bundle, read_manifest(bundle))
        assert release_in(bundle) is None


def test_one_that_expired_is_not_the_last_word(bundle, line, tmp_path):
    line.sign(bundle, expires=NOW + HOUR)
    without_new_front(bundle, lambda: line.sign(bundle, expires=NOW + DAY))
    with pinned(bundle, tmp_path / "cache", line.trust, now=NOW + 2 * HOUR) as (device, count):
        device.connect()
        assert device.fetch(max_error=1.0).configuration == "toy-0"
        assert count.turns == 2
        accepted = device.pins.accepted(bundle.name, str(device.transport.address))
        assert accepted.expires == (NOW + DAY).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_one_of_a_key_that_counts_no_more_neither(bundle, line, tmp_path):
    line.sign(bundle)

    def sign_anew():
        line.rotate(make_keys(tmp_path, 1))
        line.sign(bundle)

    first = line.trust
    without_new_front(bundle, sign_anew)
    for number, trust in enumerate((line.trust, first)):
        with pinned(bundle, tmp_path / str(number), trust) as (device, count):
            device.connect()
            assert device.upgrade().configuration == "toy-1"
            # Whoever has not heard of the rotation is as far as with a release of that day.
            assert count.turns == (3 if number == 0 else 2)


def test_a_front_that_was_written_before_the_signature_has_none(bundle, line, tmp_path):
    without_new_front(bundle, lambda: line.sign(bundle))
    with pinned(bundle, tmp_path / "cache", line.trust) as (device, count):
        device.connect()
        assert device.fetch(max_error=1.0).configuration == "toy-0"
        assert count.turns == 2


def test_where_neither_is_vouched_for_nothing_is_used(bundle, line, tmp_path):
    line.sign(bundle, expires=NOW + HOUR)
    with pinned(bundle, tmp_path / "cache", line.trust, now=NOW + DAY) as (device, count):
        with pytest.raises(TrustError, match="expired at"):
            device.connect()
        assert in_use(device) is None
        assert count.turns == 2
        assert not list((device.cache.folder / "segments").iterdir())
        assert not list((device.cache.folder / "manifests").iterdir())


def test_the_base_of_a_front_that_is_refused_is_not_kept(bundle, line, tmp_path):
    """A front with the release of another model: not one byte of it gets onto the disk."""
    other = write_bundle(tmp_path / "other", **make_parts(blocks=1, seed=3))
    line.sign(other)
    shutil.copyfile(other / "release.json", bundle / "release.json")
    write_front(bundle, read_manifest(bundle))
    with pinned(bundle, tmp_path / "cache", line.trust) as (device, _):
        with pytest.raises(TrustError, match="model"):
            device.connect()
        assert not list((device.cache.folder / "segments").iterdir())
