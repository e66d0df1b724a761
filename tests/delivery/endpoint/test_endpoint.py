import gzip
import hashlib
import json
import socket
import time
import urllib.parse

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.openapi import MAX_BODY_BYTES, MAX_HELD, MAX_STREAM_SEGMENTS
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.planner import Requirements, plan
from tests.delivery.live import request, segment_url, serving, stream_url
from tests.delivery.toys import make_parts

IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL, folder of the bundle, its manifest) of a server with one model."""
    bundle = write_bundle(tmp_path_factory.mktemp("bundles"), **make_parts())
    with serving(make_app(BundleStore(str(bundle.parent)))) as url:
        yield url, bundle, read_manifest(bundle)


def ask_plan(url, model_id, body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    response, data = request(url, f"/v1/models/{model_id}/plan", method="POST", body=body)
    return response.status, json.loads(data)


def test_lists_models(served):
    url, _, manifest = served
    response, data = request(url, "/v1/models")
    assert response.status == 200
    [model] = json.loads(data)["models"]
    created = model.pop("created")
    assert created.startswith("20")
    assert model == {
        "model_id": manifest.model_id,
        "family": "toy",
        "configurations": 4,
        "segments": 4,
        "size_bytes": manifest.size_bytes,
        "follows": None,
        "line": None,
        "version": None,
    }


def test_manifest_is_exact_immutable_and_compressed_on_request(served):
    url, bundle, manifest = served
    path = f"/v1/models/{manifest.model_id}"
    response, data = request(url, path)
    assert data == (bundle / "manifest.json").read_bytes()
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert response.headers["ETag"] == f'"{manifest.model_id}"'
    zipped, small = request(url, path, headers={"Accept-Encoding": "br, gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small) == data
    assert zipped.headers["ETag"] != response.headers["ETag"]
    refused, plain = request(url, path, headers={"Accept-Encoding": "gzip;q=0"})
    assert (refused.headers["Content-Encoding"], plain) == (None, data)
    for tag in (response.headers["ETag"], zipped.headers["ETag"]):
        again, empty = request(url, path, headers={"If-None-Match": tag})
        assert (again.status, empty) == (304, b"")
    head, empty = request(url, path, method="HEAD")
    assert (head.status, head.headers["Content-Length"], empty) == (200, str(len(data)), b"")


def test_latest_is_short_lived(served):
    url, _, manifest = served
    response, data = request(url, "/v1/models/latest")
    assert json.loads(data)["model_id"] == manifest.model_id
    assert response.headers["Cache-Control"] == "public, max-age=5"
    assert response.headers["Content-Location"] == f"/v1/models/{manifest.model_id}"
    assert ask_plan(url, "latest", {})[1]["model_id"] == manifest.model_id
    # What never changes must be asked for by its own name.
    sha256 = manifest.segments[0].sha256
    assert request(url, f"/v1/models/latest/segments/{sha256}")[0].status == 404


@pytest.mark.parametrize(
    "requirements",
    [
        {},
        {"max_bytes": 900},
        {"max_bytes": 1},
        {"deadline_s": 0.01, "throughput_bps": 1e6, "max_macs": 2000},
        {"max_error": 0.3, "throughput_bps": 0},
        {"max_error": 0.001, "max_bytes": 5000.0},
    ],
)
@pytest.mark.parametrize("held", [0, 2, 4])
def test_plan_is_that_of_the_planner(served, requirements, held):
    url, _, manifest = served
    digests = [segment.sha256 for segment in manifest.segments[:held]]
    status, document = ask_plan(
        url, manifest.model_id, {"requirements": requirements, "held": digests}
    )
    expected = plan(manifest, Requirements.from_dict(requirements), digests).to_dict()
    assert status == 200
    assert document == {"model_id": manifest.model_id} | json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[" * 200_000, 400, "not JSON"),
        (b'{"requirements": {"max_bytes": ' + b"9" * 5000 + b"}}", 400, "not JSON"),
        (b"[]", 422, "wanted an object with 'requirements' and 'held' only"),
        ({"want": 1}, 422, "wanted an object"),
        ({"requirements": []}, 422, "must be an object"),
        ({"requirements": {"max_bytes": None}}, 422, "is null; leave it out"),
        ({"requirements": {"max_bytes": -1}}, 422, "max_bytes=-1 must not be negative"),
        ({"requirements": {"deadline_s": 1}}, 422, "needs throughput_bps"),
        (b'{"requirements": {"throughput_bps": 1e999}}', 422, "must be finite"),
        (b'{"requirements": {"throughput_bps": NaN}}', 422, "must be finite"),
        (b'{"requirements": {"\\ud800": 1}}', 422, "is not known"),
        ({"held": ["../../etc/passwd"]}, 422, "held has '../../etc/passwd'"),
        ({"held": [7]}, 422, "held has 7"),
        ({"held": ["0" * 64] * (MAX_HELD + 1)}, 422, f"at most {MAX_HELD} digests"),
    ],
)
def test_plans_that_cannot_be_made_say_why(served, body, status, message):
    url, _, manifest = served
    found, document = ask_plan(url, manifest.model_id, body)
    assert found == status
    assert message in document["error"]


@pytest.mark.parametrize("is_announced", [True, False])
def test_oversize_bodies_are_refused_while_they_come(served, is_announced):
    url, _, manifest = served
    chunks = iter([b"x" * 65536] * (MAX_BODY_BYTES // 65536 + 1))
    response, data = request(
        url,
        f"/v1/models/{manifest.model_id}/plan",
        method="POST",
        body=b"".join(chunks) if is_announced else chunks,
    )
    assert response.status == 413
    assert str(MAX_BODY_BYTES) in json.loads(data)["error"]


def test_segments_are_the_files(served):
    url, bundle, manifest = served
    for index, segment in enumerate(manifest.segments):
        response, data = request(url, segment_url(manifest, index))
        assert hashlib.sha256(data).hexdigest() == segment.sha256
        assert data == segment_path(bundle, segment.sha256).read_bytes()
        assert response.headers["ETag"] == f'"{segment.sha256}"'
        assert response.headers["Cache-Control"] == IMMUTABLE
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.headers["Content-Length"] == str(segment.size_bytes)


def test_a_stream_is_the_segments_in_the_order_that_was_asked_for(served):
    url, bundle, manifest = served
    order = [manifest.segments[i] for i in (2, 0, 3)]
    response, data = request(url, stream_url(manifest, order))
    assert data == b"".join(segment_path(bundle, s.sha256).read_bytes() for s in order)
    assert response.headers["Content-Length"] == str(len(data))
    other, _ = request(url, stream_url(manifest, order[::-1]))
    assert other.headers["ETag"] != response.headers["ETag"]
    # Percent-encoded commas are commas.
    encoded, same = request(url, stream_url(manifest, order).replace(",", "%2C"))
    assert (encoded.status, same) == (200, data)


@pytest.mark.parametrize("is_stream", [True, False])
def test_ranges_and_conditions(served, is_stream):
    url, _, manifest = served
    path = stream_url(manifest, manifest.segments) if is_stream else segment_url(manifest, 1)
    response, whole = request(url, path)
    etag, length = response.headers["ETag"], len(whole)

    def get(method="GET", **headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(url, path, method=method, headers=sent)

    for header, part in (
        ("bytes=0-0", whole[:1]),
        (f"bytes={length - 3}-", whole[-3:]),
        ("bytes=-5", whole[-5:]),
        ("bytes=7-100000000", whole[7:]),
    ):
        response, data = get(Range=header)
        assert (response.status, data) == (206, part)
        start = whole.index(part) if len(part) > 5 else None
        content_range = response.headers["Content-Range"]
        assert content_range.endswith(f"/{length}")
        assert start is None or content_range == f"bytes {start}-{length - 1}/{length}"
    response, data = get(Range=f"bytes={length}-")
    assert response.status == 416
    assert response.headers["Content-Range"] == f"bytes */{length}"
    assert "begins after" in json.loads(data)["error"]
    for ignored in ("bytes=0-1,3-4", "bytes=5-3", "lines=1-2"):
        assert get(Range=ignored)[1] == whole
    assert get(Range="bytes=0-3", If_Range=etag)[0].status == 206
    response, data = get(Range="bytes=0-3", If_Range='"another"')
    assert (response.status, data) == (200, whole)
    assert get(If_None_Match=etag)[0].status == 304
    assert get(If_None_Match=etag, Range="bytes=0-3")[0].status == 304
    head, data = get("HEAD", Range="bytes=0-3")
    assert (head.status, head.headers["Content-Length"], data) == (200, str(length), b"")
    assert get("HEAD", If_None_Match=etag)[0].status == 304


def test_a_cut_stream_goes_on_byte_for_byte(served):
    url, _, manifest = served
    path = stream_url(manifest, manifest.segments)
    _, whole = request(url, path)
    for cut in range(0, len(whole), 97):
        _, rest = request(url, path, headers={"Range": f"bytes={cut}-"})
        assert whole[:cut] + rest == whole


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/{id}/segments/../manifest.json",
        "/v1/models/{id}/segments/..%2Fmanifest.json",
        "/v1/models/{id}/segments/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/models/..%2F..%2Fetc/segments/{sha}",
        "/v1/models/{id}/segments/{sha}.bin",
        "/v1/models/{id}/segments/{sha}%00",
        "/v1/models/{id}/segments/{sha}/",
        "/v1/models/{id}/segments/{SHA}",
        "/v1/models/{id}/segments/" + "0" * 64,
        "/v1/models/" + "0" * 64 + "/segments/{sha}",
        "/v1/models/" + "0" * 64,
        "/v1/models/..",
        "/page.css/../../manifest.py",
        "/nothing",
        "//",
    ],
)
def test_what_is_not_there_is_not_found(served, path):
    url, _, manifest = served
    sha256 = manifest.segments[0].sha256
    path = path.replace("{id}", manifest.model_id).replace("{sha}", sha256)
    response, data = request(url, path.replace("{SHA}", sha256.upper()))
    assert response.status == 404
    assert json.loads(data)["error"].startswith("no ")


def test_streams_that_cannot_be_say_why(served):
    url, _, manifest = served
    path = f"/v1/models/{manifest.model_id}/stream"
    sha256 = manifest.segments[0].sha256
    many = ",".join(f"{i:064x}" for i in range(MAX_STREAM_SEGMENTS + 1))
    for query, status, message in (
        ("", 400, "must be digests"),
        ("?segments=", 400, "must be digests"),
        ("?segments=../../etc/passwd", 400, "must be digests"),
        (f"?segments={sha256},", 400, "must be digests"),
        (f"?segments={sha256},{sha256}", 400, "a digest twice"),
        (f"?segments={many}", 400, f"at most {MAX_STREAM_SEGMENTS}"),
        ("?segments=" + "0" * 64, 404, "no segment"),
    ):
        response, data = request(url, path + query)
        assert response.status == status
        assert message in json.loads(data)["error"]


def test_a_head_in_pieces_is_read_to_its_end(served):
    url, _, manifest = served
    path = stream_url(manifest, manifest.segments)
    asked = path + "".join(
        f",{i:064x}" for i in range(MAX_STREAM_SEGMENTS - len(manifest.segments))
    )
    head = f"GET {asked} HTTP/1.1\r\nHost: endpoint\r\nConnection: close\r\n\r\n".encode()
    address = urllib.parse.urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        for start in range(0, len(head), 20_000):
            connection.sendall(head[start : start + 20_000])
            time.sleep(0.1)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"no segment" in answer


def test_other_methods_are_told_which_there_are(served):
    url, _, manifest = served
    response, data = request(url, f"/v1/models/{manifest.model_id}/plan")
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert "use POST" in json.loads(data)["error"]
    response, data = request(url, segment_url(manifest, 0), method="DELETE")
    assert response.status == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
