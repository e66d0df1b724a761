"""A newer version takes over when it can run, and not before, whatever goes wrong on the way."""

import json

import pytest

from accordion_jax.delivery.bundle.manifest import canonical_json, digest
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import CacheLimitError
from accordion_jax.delivery.runtimes.predicting import Predictor
from tests.delivery.checks import assert_sound, in_use
from tests.delivery.odd import Answer, odd_device
from tests.delivery.resnets import write_resnet
from tests.delivery.servers import Served
from tests.delivery.toys import make_parts


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders of a bundle, and of one that follows it."""
    folder = tmp_path_factory.mktemp("versions")
    old = write_bundle(folder, **make_parts(blocks=3, width=32))
    new = write_bundle(folder, **make_parts(blocks=3, width=32, seed=1), follows=old.name)
    return old, new


class Server:
    """Serves the old version; the new one, through `change`, once `is_new`."""

    def __init__(self, new):
        self.new = Served(new)
        self.is_new = False
        self.change = lambda request, right: right

    def __call__(self, request, right):
        if not self.is_new:
            return None
        segments = request.url.params.get("segments")
        path = request.url.path + (f"?segments={segments}" if segments else "")
        status, headers, body, _ = self.new.answer(path, request.headers.get("Range"))
        return self.change(request, Answer(status, headers, body))


def is_of_segments(request):
    return "/segments/" in request.url.path or "/stream" in request.url.path


def missing(request, right):
    return Answer(404) if is_of_segments(request) else right


def damaged(request, right):
    return (
        Answer(right.status, right.headers, bytes(len(right.body)))
        if (is_of_segments(request))
        else right
    )


def unanswered(request, right):
    return Answer(503) if is_of_segments(request) else right


def with_digest(name, value):
    """A manifest in which one field is another, its model_id right."""

    def change(request, right):
        if is_of_segments(request) or not right.body.startswith(b"{"):
            return right
        document = json.loads(right.body)
        column = document["segments"][name]
        document["segments"][name] = value + column[len(value) :]
        document["model_id"] = digest(
            canonical_json({k: v for k, v in document.items() if k != "model_id"})
        )
        return Answer(200, {}, json.dumps(document).encode())

    return change


@pytest.mark.parametrize(
    "change",
    [
        missing,
        damaged,
        unanswered,
        with_digest("sha256", "0" * 40),
        with_digest("sha256", "0" * 40 + "\n"),
        with_digest("size_bytes", [10**15]),
    ],
    ids=["missing", "damaged", "unanswered", "another digest", "line feed", "10^15 bytes"],
)
@pytest.mark.parametrize("limit_bytes", [None, 10**6])
def test_a_newer_version_that_cannot_be_had_changes_nothing(
    versions, tmp_path, change, limit_bytes
):
    old, new = versions
    server = Server(new)
    with odd_device(old, tmp_path, server) as (device, _):
        device.connect()
        assert device.upgrade().configuration == "toy-3"
    server.is_new, server.change = True, change
    for _ in range(2):
        with odd_device(old, tmp_path, server) as (device, odd):
            device.cache.limit_bytes = limit_bytes
            device.connect()
            assert (device.manifest.model_id, in_use(device)) == (old.name, "toy-3")
            try:
                outcome = device.upgrade()
            except CacheLimitError:
                assert limit_bytes
            else:
                assert outcome.configuration == "toy-3"
                assert outcome.problems or device.newer is None
            assert (device.manifest.model_id, in_use(device)) == (old.name, "toy-3")
            # And with no network too.
            before = len(odd.requests)
        with odd_device(old, tmp_path, server) as (device, odd):
            device.connect(offline=True)
            assert device.step_down(depth=1).name == "toy-1"
            assert (device.manifest.model_id, len(odd.requests)) == (old.name, 0)
            assert before
    # It is mended: it takes over.
    server.change = lambda request, right: right
    with odd_device(old, tmp_path, server) as (device, _):
        device.connect()
        assert device.newer.model_id == new.name
        events = []
        device.add_listener(lambda event: events.append((event.kind, device.manifest.model_id)))
        device.fetch(max_bytes=read_manifest(new).segments[0].size_bytes)
        assert (device.manifest.model_id, in_use(device)) == (new.name, "toy-0")
        assert device.newer is None
        assert [model for kind, model in events if kind == "model"] == [new.name]
        assert device.upgrade().configuration == "toy-3"
        assert_sound(device)
    with odd_device(old, tmp_path, server) as (device, _):
        device.connect(offline=True)
        assert (device.manifest.model_id, in_use(device)) == (new.name, "toy-3")


def test_the_step_down_holds_for_the_newer_version_where_it_was_asked_for(versions, tmp_path):
    old, new = versions
    server = Server(new)
    with odd_device(old, tmp_path, server) as (device, _):
        device.connect()
        device.upgrade()
    server.is_new = True
    with odd_device(old, tmp_path, server) as (device, _):
        macs = device.connect().table.rows[1].macs
        outcome = device.fetch(max_macs=macs)
        assert device.manifest.model_id == new.name
        assert outcome.configuration == "toy-1"


def test_predictions_are_of_the_newer_version_once_it_has_taken_over(tmp_path):
    old, _, _ = write_resnet(tmp_path / "old")
    new, _, _ = write_resnet(tmp_path / "new", seed=1)

    def answers(bundle, folder, server):
        with odd_device(bundle, tmp_path / folder, server) as (device, _):
            device.connect()
            predictor = Predictor(device, "random", 0.0)
            device.upgrade()
            return predictor.finish().splitlines()[1]

    server = Server(new)
    before = answers(old, "cache", server)
    server.is_new = True
    after = answers(old, "cache", server)
    assert "predictions  16 by coml-3" in after
    assert after == answers(new, "other", lambda *_: None) != before


def test_what_cannot_run_yet_gives_way_at_once(versions, tmp_path):
    old, new = versions
    server = Server(new)
    with odd_device(old, tmp_path, server) as (device, _):
        device.connect()
        device.fetch(max_bytes=100)
        assert in_use(device) is None
    server.is_new = True
    with odd_device(old, tmp_path, server) as (device, _):
        assert device.connect().model_id == new.name
