"""The endpoint when its files are damaged or gone, and what it counts."""

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import socket
import urllib.parse

import pytest

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.admission import SMALL_BYTES, chunk_bytes
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from tests.delivery.checks import wait_until
from tests.delivery.live import request, segment_url, serving, stream_url
from tests.delivery.toys import make_parts


@pytest.fixture
def damageable(tmp_path):
    """The same, of its own, with listings that are never taken as current."""
    bundle = write_bundle(tmp_path / "bundles", **make_parts())
    with serving(make_app(BundleStore(str(bundle.parent), refresh_s=0))) as url:
        yield url, bundle, read_manifest(bundle)


def test_a_truncated_or_missing_segment_is_never_announced(damageable):
    url, bundle, manifest = damageable
    path = segment_path(bundle, manifest.segments[1].sha256)
    data = path.read_bytes()
    for damage in (lambda: path.write_bytes(data[:-1]), lambda: path.unlink()):
        damage()
        for asked in (segment_url(manifest, 1), stream_url(manifest, manifest.segments)):
            for method in ("GET", "HEAD"):
                response, _ = request(url, asked, method=method)
                assert response.status == 503
                assert response.headers["Cache-Control"] == "no-store"
            error = json.loads(request(url, asked)[1])["error"]
            assert "'block01'" in error
            assert "copy the bundle there again" in error
            assert str(bundle.parent) not in error
        # Other segments are served as before.
        assert request(url, segment_url(manifest, 0))[0].status == 200
    path.write_bytes(data)
    assert request(url, segment_url(manifest, 1))[1] == data


def test_the_folder_may_vanish_and_come_back(damageable):
    url, bundle, manifest = damageable
    away = bundle.parent.rename(bundle.parent.with_name("away"))
    for path in ("/healthz", "/v1/models", "/v1/models/latest", segment_url(manifest, 0)):
        response, data = request(url, path)
        assert response.status == 503
        assert "the bundles cannot be read now" in json.loads(data)["error"]
        assert response.headers["Retry-After"]
    assert request(url, "/metrics")[0].status == 200
    away.rename(bundle.parent)
    assert request(url, "/healthz")[0].status == 200
    shutil.rmtree(bundle)
    assert request(url, f"/v1/models/{manifest.model_id}")[0].status == 404


def test_health_names_what_is_skipped(damageable):
    url, bundle, _ = damageable
    other = write_bundle(bundle.parent, **make_parts(seed=1))
    assert json.loads(request(url, "/healthz")[1]) == {
        "status": "ok",
        "models": 2,
        "skipped": {},
        "broken": {},
    }
    (other / "manifest.json").write_bytes(b'{"format": "accordion-bundle", "format_version": 1}')
    fresh = BundleStore(str(bundle.parent), refresh_s=0)
    with serving(make_app(fresh)) as second:
        health = json.loads(request(second, "/healthz")[1])
    assert (health["status"], health["models"]) == ("degraded", 1)
    assert "format_version=1" in health["skipped"][other.name]
    assert str(bundle.parent) not in health["skipped"][other.name]


def test_health_names_the_model_that_cannot_be_sent_whole(damageable):
    url, bundle, manifest = damageable
    sound = write_bundle(bundle.parent, **make_parts(seed=1))
    path = segment_path(bundle, manifest.segments[2].sha256)
    data = path.read_bytes()
    for damage, what in (
        (lambda: path.write_bytes(data[:-1]), "its manifest says"),
        (lambda: path.unlink(), "'block02'"),
        (lambda: shutil.rmtree(path.parent), "is missing"),
    ):
        damage()
        health = json.loads(request(url, "/healthz")[1])
        assert (health["status"], health["models"]) == ("degraded", 2)
        assert what in health["broken"][bundle.name]
        assert sound.name not in health["broken"]
        assert str(bundle.parent) not in json.dumps(health)


def test_nothing_but_regular_files_of_the_folder_is_read(tmp_path):
    secret = tmp_path / "secret"
    bundles = tmp_path / "bundles"
    bundle = write_bundle(bundles, **make_parts())
    manifest = read_manifest(bundle)
    path = segment_path(bundle, manifest.segments[0].sha256)
    secret.write_bytes(path.read_bytes())
    fine = write_bundle(bundles, **make_parts(seed=1))
    wild = [write_bundle(bundles, **make_parts(seed=seed)) for seed in (2, 3, 4, 5)]
    for each, target in zip(wild, ("/dev/zero", secret, "manifest.json", None), strict=True):
        (each / "manifest.json").unlink()
        if target:
            (each / "manifest.json").symlink_to(target)
        else:
            os.mkfifo(each / "manifest.json")
    path.unlink()
    path.symlink_to(secret)
    with serving(make_app(BundleStore(str(bundles), refresh_s=0))) as url:
        listed = json.loads(request(url, "/v1/models")[1])["models"]
        assert {model["model_id"] for model in listed} == {bundle.name, fine.name}
        response, body = request(url, segment_url(manifest, 0))
        assert response.status == 503
        assert "is no regular file of its folder" in json.loads(body)["error"]
        # A link to what lies in the folder, as a tool that saves space makes it, is fine.
        path.unlink()
        kept = bundles / "shared"
        kept.write_bytes(secret.read_bytes())
        path.symlink_to(kept)
        assert request(url, segment_url(manifest, 0))[1] == secret.read_bytes()


def test_a_refused_manifest_is_read_again_when_it_changes_and_not_before(tmp_path, monkeypatch):
    bundle = write_bundle(tmp_path, **make_parts())
    path = bundle / "manifest.json"
    right = path.read_bytes()
    path.write_bytes(right[:-1])
    reads = []
    from_bytes = Manifest.from_bytes
    monkeypatch.setattr(
        Manifest,
        "from_bytes",
        lambda *args, **kwargs: reads.append(1) or from_bytes(*args, **kwargs),
    )
    store = BundleStore(str(tmp_path), refresh_s=0)
    for _ in range(5):
        assert list(store.models()) == []
        assert "not JSON" in store.skipped()[bundle.name]
    assert len(reads) == 1
    path.write_bytes(right)
    assert len(store.models()) == 1
    assert store.skipped() == {}


def test_a_device_that_hangs_up_is_no_error_of_the_endpoint(damageable, caplog):
    url, _, manifest = damageable
    address = urllib.parse.urlsplit(url)
    head = f"POST /v1/models/{manifest.model_id}/plan HTTP/1.1\r\nHost: x\r\n"
    for _ in range(5):
        with socket.create_connection((address.hostname, address.port)) as device:
            device.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    counted = 'accordion_requests_total{route="plan",status="499"} 5.0'
    wait_until(lambda: counted in request(url, "/metrics")[1].decode())
    assert 'status="500"' not in request(url, "/metrics")[1].decode()
    assert not [record for record in caplog.records if record.exc_info]


def test_beyond_its_bound_it_says_so_and_its_health_is_answered(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=2, width=2000))
    manifest = read_manifest(bundle)
    with serving(make_app(BundleStore(str(tmp_path)), most_requests=3)) as url:
        address = urllib.parse.urlsplit(url)
        with contextlib.ExitStack() as stack:
            for count in (1, 2, 3):
                device = socket.create_connection((address.hostname, address.port))
                stack.enter_context(device)
                asked = f"GET {stream_url(manifest, manifest.segments)} HTTP/1.1\r\nHost: x\r\n\r\n"
                device.sendall(asked.encode())
                wait_until(lambda count=count: in_flight(url) == count)
            response, body = request(url, "/v1/models")
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert "too many requests" in json.loads(body)["error"]
            assert request(url, "/healthz")[0].status == 200
        wait_until(lambda: request(url, "/v1/models")[0].status == 200)


def test_a_segment_that_cannot_be_opened_is_the_servers_trouble_for_now(damageable, monkeypatch):
    url, _, manifest = damageable

    def too_many(*args, **kwargs):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert request(url, segment_url(manifest, 0))[0].status == 200
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", too_many)
    response, _ = request(url, segment_url(manifest, 0))
    assert (response.status, response.headers["Retry-After"]) == (503, "5")


def test_stalled_devices_hold_little_memory():
    sizes = [chunk_bytes(count) for count in range(1, 1001)]
    assert sizes == sorted(sizes, reverse=True)
    # Each holds a piece in its connection's buffer, and the next one.
    assert sizes[0] == 512 * 1024
    assert 2 * sum(sizes) < 120e6
    assert 1000 * SMALL_BYTES < 120e6


def test_chunks_shrink_while_many_devices_are_served(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=1, width=500))
    store = BundleStore(str(tmp_path))
    (model,) = store.models()
    digests = [segment.sha256 for segment in model.manifest.segments]
    end = model.manifest.size_bytes
    counts = iter([1, 100, 1000, *[1] * 100])
    chunks = list(store.read(model, digests, 0, end, chunk_bytes=lambda: chunk_bytes(next(counts))))
    assert [len(chunk) for chunk in chunks[:3]] == [chunk_bytes(n) for n in (1, 100, 1000)]
    paths = [segment_path(bundle, sha256) for sha256 in digests]
    assert b"".join(chunks) == b"".join(path.read_bytes() for path in paths)


def test_segments_in_flight_are_seen_and_a_device_that_leaves_lets_go(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=2, width=2000))
    manifest = read_manifest(bundle)
    with serving(make_app(BundleStore(str(tmp_path)))) as url:
        address = urllib.parse.urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as device:
            device.sendall(f"GET {stream_url(manifest, manifest.segments)} HTTP/1.1\r\n".encode())
            device.sendall(b"Host: x\r\n\r\n")
            assert device.recv(1000).startswith(b"HTTP/1.1 200")
            wait_until(lambda: in_flight(url) == 1)
        wait_until(lambda: in_flight(url) == 0)


def in_flight(url):
    text = request(url, "/metrics")[1].decode()
    return float(re.search(r"^accordion_segments_in_flight (\S+)$", text, re.MULTILINE)[1])


def test_a_segment_that_shrinks_while_it_is_sent_ends_the_connection(tmp_path):
    """The client must see that it is cut: no padding, no clean end."""
    bundle = write_bundle(tmp_path, **make_parts(blocks=1, width=3000))
    manifest = read_manifest(bundle)
    with serving(make_app(BundleStore(str(tmp_path)))) as url:
        address = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        connection.request("GET", segment_url(manifest, 0))
        response = connection.getresponse()
        start = response.read(10)
        with segment_path(bundle, manifest.segments[0].sha256).open("r+b") as file:
            file.truncate(20 * 2**20)
        with pytest.raises(http.client.IncompleteRead) as error:
            response.read()
        connection.close()
    assert len(start) + len(error.value.partial) <= 20 * 2**20


def test_metrics_count_requests_bytes_and_plans(damageable):
    url, _, manifest = damageable
    request(url, f"/v1/models/{manifest.model_id}/plan", method="POST", body=b"{}")
    _, data = request(url, segment_url(manifest, 0))
    request(url, segment_url(manifest, 0), headers={"Range": "bytes=0-9"})
    request(url, "/nothing/at/all")
    wanted = {
        'accordion_requests_total{route="plan",status="200"} 1.0',
        'accordion_requests_total{route="segment",status="200"} 1.0',
        'accordion_requests_total{route="segment",status="206"} 1.0',
        'accordion_requests_total{route="none",status="404"} 1.0',
        f'accordion_sent_bytes_total{{route="segment"}} {len(data) + 10}.0',
        "accordion_plan_seconds_count 1.0",
        "accordion_segments_in_flight 0.0",
    }
    # A request is counted when its last byte is on its way, so a client can be quicker.
    wait_until(lambda: wanted <= set(request(url, "/metrics")[1].decode().splitlines()))
    response, _ = request(url, "/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
