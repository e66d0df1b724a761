"""From the request to the first prediction it is one round trip, counted at the socket."""

import contextlib
import dataclasses
import functools
import http.server
import shutil
import threading

import httpx
import pytest

from accordion_jax.delivery.bundle.front import Head
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.planner import Requirements
from accordion_jax.delivery.runtimes.runtime import Runtime
from tests.delivery.checks import assert_sound, in_use, wait_until
from tests.delivery.counting import counting
from tests.delivery.forests import write_forest
from tests.delivery.live import serving
from tests.delivery.signing import Line
from tests.delivery.toys import make_parts

HEADERS = 400  # of one answer, in bytes, at most


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """(line that signed it, bundle, rows) of a model that runs without JAX."""
    folder = tmp_path_factory.mktemp("forest")
    bundle, _, rows, _ = write_forest(folder / "bundles", trees=4, group=1, classes=3)
    line = Line.start(folder)
    return line, line.sign(bundle), rows


@contextlib.contextmanager
def endpoint(bundle):
    with serving(make_app(BundleStore(str(bundle.parent), refresh_s=0))) as url:
        yield url


@contextlib.contextmanager
def static(bundle, protocol="HTTP/1.1"):
    """A plain web server that keeps connections, as those of the real world do."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = protocol

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=bundle.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{bundle.name}"
        finally:
            server.shutdown()
            thread.join()


SERVERS = {"endpoint": endpoint, "static": static}


@contextlib.contextmanager
def device_at(url, folder, client=None, **kwargs):
    with contextlib.ExitStack() as stack:
        client = client or stack.enter_context(httpx.Client())
        device = Device(HttpTransport(url, client=client), SegmentCache(folder), **kwargs)
        yield device
        device.close()


def bytes_before_the_second_segment(bundle, *, pinned, all_segments):
    manifest = read_manifest(bundle)
    segments = list({segment.sha256: segment for segment in manifest.segments}.values())
    release = (bundle / "release.json").read_bytes() if pinned else None
    sent = segments if all_segments else segments[:1]
    head = Head.of(manifest, sent, document=manifest.to_bytes(), release=release)
    return len(head.to_bytes()) + segments[0].size_bytes


@pytest.mark.parametrize("ask", [None, Requirements()], ids=["the base", "all"])
@pytest.mark.parametrize("pinned", [False, True], ids=["", "pinned"])
@pytest.mark.parametrize("kind", SERVERS)
def test_the_first_prediction_takes_one_round_trip(kind, pinned, ask, forest, tmp_path):
    line, bundle, rows = forest
    trust = {"trust": line.trust} if pinned else {}
    # The front on a web server has the release for whoever wants it.
    size = bytes_before_the_second_segment(
        bundle, pinned=pinned or kind == "static", all_segments=ask and kind == "endpoint"
    )
    with (
        SERVERS[kind](bundle) as url,
        # No more may pass than that: the device must run what it has.
        counting(url, most_bytes=size + HEADERS) as (url, count),
        device_at(url, tmp_path / "cache", **trust) as device,
    ):
        device.connect(ask=ask)
        runtime = Runtime(device)
        # Where the rest is not on its way, asking for it would be a turn that nothing waits for.
        on_its_way = ask and kind == "endpoint"
        wanted = {} if on_its_way else {"max_error": 1.0}
        fetching = threading.Thread(target=device.fetch, kwargs=wanted)
        fetching.start()
        try:
            assert runtime.wait(60)
            assert runtime.predict(rows[:1]).configuration == device.manifest.ladder[0].name
            assert (count.turns, count.connections) == (1, 1)
            assert size < count.received_bytes <= size + HEADERS
            assert fetching.is_alive() or not on_its_way
        finally:
            count.let_go()
            fetching.join(60)
        device.upgrade()
        assert runtime.wait(60, configuration=device.manifest.ladder[-1].name)
        runtime.close()
        later = {"endpoint": 0 if ask else 1, "static": len(device.manifest.by_sha256) - 1}[kind]
        assert (count.turns, count.connections) == (1 + later, 1)
        assert device.outcome().problems == ()
        if pinned:
            assert device.pins.accepted(device.manifest.model_id, url).version == 1


@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
@pytest.mark.parametrize("pinned", [False, True], ids=["", "pinned"])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_connection_that_is_there_already_is_used(kind, pinned, kept, forest, tmp_path):
    line, bundle, _ = forest
    trust = {"trust": line.trust} if pinned else {}
    with (
        SERVERS[kind](bundle) as url,
        counting(url) as (url, count),
        httpx.Client() as client,
    ):
        if kept:
            with device_at(url, tmp_path / "before", client, **trust) as device:
                device.connect()
                device.fetch(max_error=1.0)
            assert (count.turns, count.connections) == (1, 1)
        with device_at(url, tmp_path / "cache", client, **trust) as device:
            device.connect(ask=Requirements(max_error=1.0))
            device.fetch(max_error=1.0)
            assert in_use(device) == device.manifest.ladder[0].name
        assert (count.turns, count.connections) == (1 + kept, 1)


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_a_web_server_without_a_front_is_asked_for_the_manifest(protocol, tmp_path):
    bundle = write_bundle(tmp_path / "bundles", **make_parts(blocks=2))
    (bundle / "front").unlink()
    with (
        static(bundle, protocol) as url,
        counting(url) as (url, count),
        device_at(url, tmp_path / "cache") as device,
    ):
        device.connect()
        assert device.fetch(max_error=1.0).problems == ()
        assert in_use(device) == "toy-0"
        assert count.turns == 3, "no front, the manifest, the base"
        assert device.upgrade().configuration == "toy-2"


@pytest.mark.parametrize("pinned", [False, True], ids=["", "pinned"])
def test_what_is_kept_is_not_sent_again(pinned, tmp_path):
    bundle = write_bundle(tmp_path / "bundles", **make_parts(blocks=3, width=64))
    line = Line.start(tmp_path)
    line.sign(bundle)
    segments = read_manifest(bundle).segments
    trust = {"trust": line.trust} if pinned else {}
    with endpoint(bundle) as url, counting(url) as (url, count):
        with device_at(url, tmp_path / "cache", **trust) as device:
            device.connect()
            device.fetch(max_bytes=segments[0].size_bytes)
        before = dataclasses.replace(count)
        with device_at(url, tmp_path / "cache", **trust) as device:
            device.connect(ask=Requirements(max_error=0.2))
            assert in_use(device) == "toy-0"
            assert device.fetch(max_error=0.2).configuration == "toy-2"
            assert device.outcome().problems == ()
        assert count.turns - before.turns == 1
        sent = sum(segment.size_bytes for segment in segments[1:3])
        release = 1200 if pinned else 0
        assert sent < count.received_bytes - before.received_bytes < sent + HEADERS + release
        # Nothing is new, and nothing is wanted.
        before = dataclasses.replace(count)
        with device_at(url, tmp_path / "cache", **trust) as device:
            device.connect()
            assert device.fetch(max_error=0.2).transferred_bytes == 0
        assert count.turns - before.turns == 1
        assert count.received_bytes - before.received_bytes < HEADERS + release
        # The address names the model, which never changes: that is asked for without asking first.
        before = dataclasses.replace(count)
        address = f"{url}/v1/models/{bundle.name}"
        with device_at(address, tmp_path / "cache") as device:
            device.cache.use_manifest(address, bundle.name)
            if not pinned:
                device.connect()
                assert count.turns == before.turns
                assert device.upgrade().configuration == "toy-3"
                assert count.turns - before.turns == 1


def test_of_a_segment_that_was_cut_only_the_rest_is_sent(tmp_path):
    """In another process, with the latest asked for: one request, and no byte twice."""
    bundle = write_bundle(tmp_path / "bundles", **make_parts(blocks=2, width=64))
    base = read_manifest(bundle).segments[0]
    content = segment_path(bundle, base.sha256).read_bytes()
    with endpoint(bundle) as url, counting(url) as (url, count):
        with device_at(url, tmp_path / "cache") as device:
            device.connect()
            with device.cache.download(base.sha256, base.size_bytes) as download:
                download.write(content[:-100])
        before = dataclasses.replace(count)
        with device_at(url, tmp_path / "cache") as device:
            device.connect()
            outcome = device.fetch(max_error=1.0)
            assert (outcome.configuration, outcome.transferred_bytes) == ("toy-0", 100)
            assert_sound(device)
        assert count.turns - before.turns == 1
        assert count.received_bytes - before.received_bytes < 100 + HEADERS


def test_a_newer_version_comes_in_one_round_trip_too(tmp_path):
    old = write_bundle(tmp_path / "old", **make_parts(blocks=2, seed=0))
    new = write_bundle(tmp_path / "new", **make_parts(blocks=2, seed=1), follows=old.name)
    offered = tmp_path / "bundles"
    shutil.copytree(old, offered / old.name)
    with endpoint(offered / old.name) as url, counting(url) as (url, count):
        with device_at(url, tmp_path / "cache") as device:
            device.connect(ask=Requirements())
            assert device.upgrade().configuration == "toy-2"
        shutil.copytree(new, offered / new.name)
        before = dataclasses.replace(count)
        with device_at(url, tmp_path / "cache") as device:
            device.connect(ask=Requirements())
            assert (device.manifest.model_id, device.newer.model_id) == (old.name, new.name)
            assert device.upgrade().configuration == "toy-2"
            assert device.manifest.model_id == new.name
        assert count.turns - before.turns == 1


def test_a_device_that_wants_less_than_it_asked_for_hangs_up(tmp_path):
    bundle = write_bundle(tmp_path / "bundles", **make_parts(blocks=5, width=1024))
    with (
        endpoint(bundle) as url,
        counting(url) as (url, count),
        device_at(url, tmp_path / "cache") as device,
    ):
        device.connect(ask=Requirements())
        size = device.manifest.segments[0].size_bytes
        outcome = device.fetch(max_bytes=size)
        assert outcome.configuration == "toy-0"
        assert size <= outcome.transferred_bytes < size + 100_000, "what was in hand is counted"
        with httpx.Client() as client:

            def in_flight():
                text = client.get(f"{url}/metrics").text
                return "accordion_segments_in_flight 0.0" not in text

            wait_until(lambda: not in_flight())
        assert count.received_bytes < device.manifest.size_bytes
        assert device.upgrade().configuration == "toy-5"


def test_an_expected_link_that_is_too_slow_still_brings_the_base(tmp_path):
    bundle = write_bundle(tmp_path / "bundles", **make_parts(blocks=2))
    slow = {"deadline_s": 20.0, "throughput_bps": 10.0}
    with (
        endpoint(bundle) as url,
        counting(url) as (url, count),
        device_at(url, tmp_path / "cache") as device,
    ):
        device.connect(ask=Requirements(**slow))
        outcome = device.fetch(**slow)
        assert outcome.configuration == "toy-0"
        assert count.turns == 1
