"""Segments are static: nginx serves them with launch/nginx.conf as the endpoint does."""

import gzip
import json

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from tests.delivery.live import request, serving
from tests.delivery.toys import make_parts
from tests.delivery.webserver import NGINX, nginx

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(URL of nginx, URL of the endpoint behind it, folder of the bundle, its manifest)."""
    folder = tmp_path_factory.mktemp("nginx")
    bundle = write_bundle(folder / "bundles", **make_parts(width=64))
    with (
        serving(make_app(BundleStore(str(bundle.parent)))) as endpoint,
        nginx(bundle.parent, endpoint.removeprefix("http://"), folder / "run") as front,
    ):
        yield front, endpoint, bundle, read_manifest(bundle)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Range": "bytes=0-0"},
        {"Range": "bytes=100-"},
        {"Range": "bytes=-7"},
        {"Range": "bytes=100-99999999"},
        {"Range": "bytes=99999999-"},
        {"Range": "bytes=0-9", "If-Range": "{etag}"},
        {"Range": "bytes=0-9", "If-Range": '"another"'},
        {"If-None-Match": "{etag}"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_segments_are_as_the_endpoint_sends_them(both, headers, method):
    front, endpoint, _, manifest = both
    segment = manifest.segments[1]
    path = f"/v1/models/{manifest.model_id}/segments/{segment.sha256}"
    headers = {k: v.replace("{etag}", f'"{segment.sha256}"') for k, v in headers.items()}
    static, data = request(front, path, method=method, headers=headers)
    planned, expected = request(endpoint, path, method=method, headers=headers)
    if method == "HEAD" and "Range" in headers:
        assert static.status in (200, 206, 416)  # nginx gives HEAD a range, which is as good
        return
    assert static.status == planned.status
    if static.status != 416:  # the page of the error differs
        assert data == expected
        for name in ("ETag", "Cache-Control"):
            assert static.headers[name] == planned.headers[name]
    assert static.headers["Content-Range"] == planned.headers["Content-Range"]


def test_manifests_are_static_too(both):
    front, _, bundle, manifest = both
    path = f"/v1/models/{manifest.model_id}"
    response, data = request(front, path)
    assert data == (bundle / "manifest.json").read_bytes()
    assert response.headers["ETag"] == f'"{manifest.model_id}"'
    response, small = request(front, path, headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small) == data
    assert request(front, path, headers={"If-None-Match": f'"{manifest.model_id}"'})[0].status == (
        304
    )


def test_a_link_among_the_bundles_is_not_followed(both, tmp_path):
    front, _, bundle, manifest = both
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = segment_path(bundle, manifest.segments[0].sha256)
    right = path.read_bytes()
    path.unlink()
    try:
        path.symlink_to(secret)
        asked = f"/v1/models/{manifest.model_id}/segments/{path.stem}"
        response, data = request(front, asked)
        assert response.status == 403
        assert b"secret" not in data
    finally:
        path.unlink()
        path.write_bytes(right)
    assert request(front, asked)[1] == right


def test_what_needs_thought_is_passed_on(both):
    front, _, bundle, manifest = both
    response, data = request(
        front, "/v1/models/latest/plan", method="POST", body=b'{"requirements": {}}'
    )
    document = json.loads(data)
    assert document["configuration"] == "toy-3"
    digests = ",".join(segment["sha256"] for segment in document["missing"])
    path = f"/v1/models/{manifest.model_id}/stream?segments={digests}"
    response, whole = request(front, path)
    assert whole == b"".join(
        segment_path(bundle, sha256).read_bytes() for sha256 in digests.split(",")
    )
    response, rest = request(front, path, headers={"Range": "bytes=1000-"})
    assert (response.status, rest) == (206, whole[1000:])
    assert request(front, "/")[0].status == 200


def test_first_requests_are_passed_on_and_a_bundle_is_there_as_files(both):
    front, endpoint, bundle, manifest = both
    first = [
        request(url, "/v1/models/latest/front", method="POST", body=b"{}")[1]
        for url in (front, endpoint)
    ]
    assert first[0] == first[1] == (bundle / "front").read_bytes()
    (bundle / "release.json").write_bytes(b"{}")
    for name, kind, lasts in (
        ("front", "application/octet-stream", "max-age=5"),
        ("release.json", "application/json", "max-age=5"),
        ("manifest.json", "application/json", "immutable"),
        (f"segments/{manifest.segments[0].sha256}.bin", "application/octet-stream", "imm"),
    ):
        response, data = request(front, f"/{manifest.model_id}/{name}")
        assert data == (bundle / name).read_bytes()
        assert response.headers["Content-Type"] == kind
        assert lasts in response.headers["Cache-Control"]
    (bundle / "release.json").unlink()


def test_nothing_else_of_the_disk_is_served(both):
    front, _, _, manifest = both
    sha256 = manifest.segments[0].sha256
    for path in (
        f"/v1/models/{manifest.model_id}/segments/../manifest.json",
        f"/v1/models/{manifest.model_id}/segments/..%2fmanifest.json",
        f"/v1/models/{'0' * 64}/segments/{sha256}",
        f"/v1/models/{manifest.model_id}/segments/{'0' * 64}",
        f"/{manifest.model_id}/",
        f"/{manifest.model_id}/segments/",
        f"/{'0' * 64}/front",
        "/srv/bundles/",
    ):
        assert request(front, path)[0].status in (400, 404)
