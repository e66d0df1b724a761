"""Releases at the endpoint: sent as they are, current, and what they make the latest."""

import datetime
import gzip
import json
import os

import fsspec
import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.trust.documents import MAX_RELEASE_BYTES, RELEASE_NAME
from tests.delivery.live import request, serving
from tests.delivery.signing import DAY, NOW, Line, release_of, write_release
from tests.delivery.toys import make_parts


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return Line.start(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Line.start(tmp_path_factory.mktemp("keys"), name="other")


def write(folder, seed, day=1, follows=None):
    bundle = write_bundle(folder, **make_parts(blocks=1, seed=seed), follows=follows)
    time = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC).timestamp()
    os.utime(bundle / "manifest.json", (time, time))
    return bundle


def ids(store):
    return [model.manifest.model_id for model in store.models()]


@pytest.fixture
def served(tmp_path, line):
    """(URL, a signed bundle, one that is not) of an endpoint that looks each time."""
    signed, plain = line.sign(write(tmp_path, 1)), write(tmp_path, 2)
    with serving(make_app(BundleStore(str(tmp_path), refresh_s=0))) as url:
        yield url, signed, plain


def test_a_release_is_sent_as_it_lies_there(served, line):
    url, signed, plain = served
    path = f"/v1/models/{signed.name}/release"
    response, body = request(url, path)
    assert response.status == 200
    assert body == (signed / RELEASE_NAME).read_bytes()
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "public, max-age=5"
    etag = response.headers["ETag"]
    assert request(url, path, headers={"If-None-Match": etag})[0].status == 304
    head, nothing = request(url, path, method="HEAD")
    assert (head.headers["ETag"], nothing) == (etag, b"")
    response, body = request(url, f"/v1/models/{plain.name}/release")
    assert response.status == 404
    assert json.loads(body) == {"error": f"model {plain.name} has no signed release"}
    for missing in ("latest", "0" * 64, "x"):
        assert request(url, f"/v1/models/{missing}/release")[0].status == 404
    # Signed anew, it is the new one at once, and the bundle's id the same.
    line.sign(signed, expires=NOW + DAY)
    response, body = request(url, path, headers={"If-None-Match": etag})
    assert response.status == 200
    assert body == (signed / RELEASE_NAME).read_bytes()
    # And taken away, it is gone.
    (signed / RELEASE_NAME).unlink()
    assert request(url, path)[0].status == 404


def test_the_list_says_line_and_version(served):
    url, signed, plain = served
    listed = json.loads(request(url, "/v1/models")[1])["models"]
    found = {each["model_id"]: (each["line"], each["version"]) for each in listed}
    assert found == {signed.name: ("toy", 1), plain.name: (None, None)}


def test_the_latest_of_a_line(served, line, other):
    url, signed, _ = served
    folder = signed.parent
    other.sign(write(folder, 3, day=20))
    newer = line.sign(write(folder, 4, day=1))

    def latest(query):
        response, body = request(url, f"/v1/models/latest{query}", headers={"Accept-Encoding": ""})
        return response.status, json.loads(body)

    assert latest("?line=toy")[1]["model_id"] == newer.name
    status, answer = latest("?line=none")
    assert (status, answer) == (404, {"error": "no model here has a release of line 'none'"})
    status, answer = latest("?line=a%2Fb")
    assert status == 400
    assert answer["error"].startswith("line='a/b' must be a name of at most 100")
    # Compressed too, and not modified.
    response, body = request(url, "/v1/models/latest?line=toy", headers={"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(body))["model_id"] == newer.name
    headers = {"If-None-Match": response.headers["ETag"]}
    assert request(url, "/v1/models/latest?line=toy", headers=headers)[0].status == 304


def test_the_highest_version_is_the_latest_and_unsigned_bundles_change_nothing(
    tmp_path, line, other
):
    first = line.sign(write(tmp_path, 1, day=3))
    second = line.sign(write(tmp_path, 2, day=2))
    store = BundleStore(str(tmp_path), refresh_s=0)
    assert ids(store) == [second.name, first.name]
    # Somebody drops bundles beside them: newer, or said to follow.
    newer, follower = write(tmp_path, 3, day=9), write(tmp_path, 4, day=8, follows=second.name)
    assert ids(store) == [second.name, first.name, newer.name, follower.name]
    # Another line is the latest of all where its highest version came last, but not of this line.
    third = other.sign(write(tmp_path, 5, day=5), version=7)
    assert ids(store)[:3] == [third.name, second.name, first.name]
    assert store.latest("toy").manifest.model_id == second.name
    assert store.latest("other").manifest.model_id == store.latest().manifest.model_id == third.name
    assert store.latest("none") is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda bundle, line: (bundle / RELEASE_NAME).write_bytes(b"{"), "is not JSON"),
        (
            lambda bundle, line: (bundle / RELEASE_NAME).write_bytes(b" " * MAX_RELEASE_BYTES * 2),
            "has 1048576 bytes; at most 524288 are read",
        ),
        (
            lambda bundle, line: write_release(bundle, line.forged(bundle, 9, model_id="0" * 64)),
            f"is of model {'0' * 64}; sign this bundle again",
        ),
        (lambda bundle, line: (bundle / RELEASE_NAME).mkdir(), "is no regular file"),
    ],
    ids=["not JSON", "large", "of another model", "a folder"],
)
def test_a_bad_release_is_none_and_health_tells(tmp_path, line, caplog, damage, said):
    bundle = write(tmp_path, 1)
    damage(bundle, line)
    good = line.sign(write(tmp_path, 2))
    store = BundleStore(str(tmp_path), refresh_s=0)
    for _ in range(2):
        assert ids(store) == [good.name, bundle.name]
        assert store.releases().keys() == {good.name}
        assert said in store.broken()[bundle.name]
    assert sum(said in message for message in caplog.messages) == 1


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, line):
    folder = tmp_path / "bundles"
    bundle = line.sign(write(folder, 1))
    outside = tmp_path / "secret.json"
    (bundle / RELEASE_NAME).rename(outside)
    (bundle / RELEASE_NAME).symlink_to(outside)
    store = BundleStore(str(folder), refresh_s=0)
    store.models()
    assert store.releases() == {}
    assert "is no regular file of its folder" in store.broken()[bundle.name]


def test_an_object_store_is_not_asked_for_releases_all_the_time(tmp_path, line, monkeypatch):
    bundle = line.sign(write(tmp_path, 1))
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.put(str(tmp_path), "/bundles", recursive=True)
    asked = []
    store = BundleStore("memory://bundles", refresh_s=3600)
    monkeypatch.setattr(store, "_info", lambda *a, real=store._info: asked.append(a) or real(*a))
    for _ in range(3):
        store._refreshed_at = -float("inf")  # a refresh is due
        assert ids(store) == [bundle.name]
    assert store.releases()[bundle.name].version == release_of(bundle).signed.release.version
    assert [each for each in asked if each[1] == RELEASE_NAME] == [(bundle.name, RELEASE_NAME)]
