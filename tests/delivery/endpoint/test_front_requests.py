"""The first request: what is planned is what is sent, and what is known is not sent again."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.front import read_head
from accordion_jax.delivery.bundle.manifest import digest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.admission import SMALL_BYTES
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.plan_log import PlanLog
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.planner import Requirements, plan
from tests.delivery.live import request, serving
from tests.delivery.signing import Line
from tests.delivery.toys import make_parts


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL, folder of a signed bundle, its manifest); two segments are more than one chunk."""
    folder = tmp_path_factory.mktemp("served")
    bundle = write_bundle(folder / "bundles", **make_parts(blocks=3, width=100))
    Line.start(folder).sign(bundle)
    with serving(make_app(BundleStore(str(bundle.parent), refresh_s=60))) as url:
        yield url, bundle, read_manifest(bundle)


def ask(url, body, model_id="latest", query=""):
    """(response, head of the front, the rest of it)."""
    response, data = request(
        url,
        f"/v1/models/{model_id}/front{query}",
        method="POST",
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    if response.status != 200:
        return response, None, json.loads(data)["error"]
    position = 0

    def take(count):
        nonlocal position
        position += count
        assert position <= len(data)
        return data[position - count : position]

    head = read_head(take, "it")
    return response, head, data[position:]


def content_of(bundle, segments):
    return b"".join(segment_path(bundle, segment.sha256).read_bytes() for segment in segments)


def test_without_requirements_it_is_the_manifest_and_the_smallest(served):
    url, bundle, manifest = served
    for model_id in ("latest", manifest.model_id):
        response, head, rest = ask(url, {}, model_id)
        assert head.manifest == (bundle / "manifest.json").read_bytes()
        assert (head.release, head.offset) == (None, 0)
        assert head.segments_of(manifest, "it") == manifest.segments[:1]
        assert rest == content_of(bundle, manifest.segments[:1])
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "application/octet-stream"


def test_a_release_comes_where_one_is_wanted(served):
    url, bundle, manifest = served
    assert ask(url, {"release": True})[1].release == (bundle / "release.json").read_bytes()
    assert ask(url, {"release": False})[1].release is None
    head = ask(url, {"release": True, "manifest": manifest.model_id}, query="?line=toy")[1]
    assert head.manifest is None
    assert head.release is not None
    response, _, error = ask(url, {}, query="?line=other")
    assert (response.status, "no model here has a release of line" in error) == (404, True)
    assert ask(url, {}, query="?line=-")[0].status == 400


requirements = st.fixed_dictionaries(
    {},
    optional={
        "max_bytes": st.integers(0, 300_000),
        "max_error": st.floats(0, 1),
        "max_macs": st.integers(0, 5000),
    },
)


@given(requirements, st.sets(st.integers(0, 3)), st.booleans(), st.integers(0, 50_000))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_sent_is_what_the_planner_says(served, asked, held, is_known, received_bytes):
    url, bundle, manifest = served
    digests = [manifest.segments[place].sha256 for place in held]
    body = {"requirements": asked, "held": digests}
    if is_known:
        body["manifest"] = manifest.model_id
    wanted = plan(manifest, Requirements.from_dict(asked), digests).missing
    if wanted:
        body["part"] = {"sha256": wanted[0].sha256, "received_bytes": received_bytes}
    _, head, rest = ask(url, body)
    assert head.segments_of(manifest, "it") == wanted
    assert (head.manifest is None) == is_known
    content = content_of(bundle, wanted)
    assert head.offset == (
        received_bytes
        if content[received_bytes:] and wanted and received_bytes < wanted[0].size_bytes
        else 0
    )
    assert rest == content[head.offset :]


def test_large_and_small_fronts_are_the_same(served):
    url, bundle, manifest = served
    assert manifest.segments[0].size_bytes < SMALL_BYTES < manifest.size_bytes
    response, _, rest = ask(url, {"requirements": {}})
    assert rest == content_of(bundle, manifest.segments)
    assert int(response.headers["Content-Length"]) > len(rest)


def test_a_part_of_another_segment_changes_nothing(served):
    url, bundle, manifest = served
    for part in (
        {"sha256": manifest.segments[1].sha256, "received_bytes": 5},
        {"sha256": digest(b"x"), "received_bytes": 5},
        {"sha256": manifest.segments[0].sha256, "received_bytes": 10**15},
    ):
        _, head, rest = ask(url, {"part": part})
        assert head.offset == 0
        assert rest == content_of(bundle, manifest.segments[:1])


def test_a_link_that_is_said_to_be_too_slow_gets_the_base_of_a_device_without_any(served):
    url, _, manifest = served
    slow = {"requirements": {"deadline_s": 0.001, "throughput_bps": 1.0}}
    assert ask(url, slow)[1].places == (0,)
    assert ask(url, slow | {"held": [manifest.segments[0].sha256]})[1].places == ()
    # Of the other bounds nobody is in doubt.
    assert ask(url, {"requirements": {"max_bytes": 1}})[1].places == ()
    assert ask(url, {"requirements": slow["requirements"] | {"max_macs": 1}})[1].places == ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "wanted an object with"),
        ({"x": 1}, "'requirements', 'held', 'manifest', 'release' and 'part' only"),
        ({"manifest": "latest"}, "manifest='latest' must be a model_id"),
        ({"manifest": None}, "manifest=None must be a model_id"),
        ({"release": 1}, "release=1 must be true or false"),
        ({"held": ["x"]}, "held has 'x'"),
        ({"requirements": None}, "requirements=None must be an object"),
        ({"requirements": {"max_error": 7}}, "max_error=7 must be a share"),
        ({"part": {"sha256": "a" * 64}}, "must be a segment's 'sha256' and its 'received_bytes'"),
        ({"part": {"sha256": "a" * 64, "received_bytes": -1}}, "'received_bytes'"),
        ({"part": {"sha256": "a" * 64, "received_bytes": 1.5}}, "'received_bytes'"),
        ({"part": {"sha256": "a" * 64, "received_bytes": True}}, "'received_bytes'"),
        ({"part": 7}, "part=7 must be"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:40],
)
def test_what_cannot_be_read_is_refused_in_words(served, body, said):
    response, _, error = ask(served[0], body)
    assert response.status == 422
    assert said in error


def test_a_segment_that_is_gone_ends_the_front_before_it(served, tmp_path):
    _, bundle, manifest = served
    copy = shutil.copytree(bundle, tmp_path / "bundles" / bundle.name)
    segment_path(copy, manifest.segments[2].sha256).unlink()
    with serving(make_app(BundleStore(str(copy.parent), refresh_s=0))) as url:
        _, head, rest = ask(url, {"requirements": {}})
        assert head.places == (0, 1)
        assert rest == content_of(bundle, manifest.segments[:2])
        segment_path(copy, manifest.segments[0].sha256).write_bytes(b"short")
        _, head, rest = ask(url, {"requirements": {}})
        assert (head.places, rest) == ((), b"")


def test_it_is_counted_and_logged_as_a_plan(served, tmp_path):
    _, bundle, manifest = served
    log = PlanLog(tmp_path / "plans.jsonl")
    with serving(make_app(BundleStore(str(bundle.parent)), plan_log=log)) as url:
        body = {
            "requirements": {"max_error": 0.25},
            "held": [manifest.segments[0].sha256],
            "manifest": manifest.model_id,
        }
        ask(url, body)
        ask(url, {})  # nothing was asked for that a policy could learn from
        ask(url, {"requirements": {"max_error": 9}})
        metrics = request(url, "/metrics")[1].decode()
    assert 'accordion_requests_total{route="front",status="200"} 2.0' in metrics
    assert 'accordion_requests_total{route="front",status="422"} 1.0' in metrics
    assert "accordion_plan_seconds_count 2.0" in metrics
    text = (tmp_path / "plans.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {
            "plan": 1,
            "model": manifest.model_id[:16],
            "requirements": {"max_error": 0.25},
            "configuration": "toy-2",
        }
    ]
    assert manifest.segments[0].sha256 not in text
