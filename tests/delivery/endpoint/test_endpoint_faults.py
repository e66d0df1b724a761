"""The endpoint when its files are damaged or gone, and what it counts."""

import http.client
import json
import logging
import re
import shutil
import socket
import urllib.parse

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
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
    assert json.loads(request(url, "/healthz")[1]) == {"status": "ok", "models": 2, "skipped": {}}
    (other / "manifest.json").write_bytes(b'{"format": "accordion-bundle", "format_version": 2}')
    fresh = BundleStore(str(bundle.parent), refresh_s=0)
    with serving(make_app(fresh)) as second:
        health = json.loads(request(second, "/healthz")[1])
    assert health["models"] == 1
    assert "format_version=2" in health["skipped"][other.name]
    assert str(bundle.parent) not in health["skipped"][other.name]


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


def test_clients_that_hang_up_in_the_middle_of_a_request_are_no_errors_of_ours(damageable, caplog):
    url, _, manifest = damageable
    address = urllib.parse.urlsplit(url)
    head = f"POST /v1/models/{manifest.model_id}/plan HTTP/1.1\r\nHost: x\r\n".encode()
    starts = (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{")
    for start in starts:
        with socket.create_connection((address.hostname, address.port)) as device:
            device.sendall(head + start)
    left = f'accordion_requests_total{{route="plan",status="499"}} {len(starts)}.0'
    wait_until(lambda: left in request(url, "/metrics")[1].decode())
    assert 'status="500"' not in request(url, "/metrics")[1].decode()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


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
