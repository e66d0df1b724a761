"""What goes wrong between a device and a real server, and that the device goes on.

Each test ends with the device at the depth it had or deeper, and the cache sound.
"""

import contextlib
import errno
import functools
import http.server
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from endpoints import running_endpoint, start_endpoint, stop
from servers import Fault, serving
from webserver import NGINX, nginx

from accordion_jax.delivery.cache import SegmentCache
from accordion_jax.delivery.device import Device
from accordion_jax.delivery.errors import ConnectionLostError, ManifestError, RefusedError
from accordion_jax.delivery.links import Link, ThrottledTransport, constant
from accordion_jax.delivery.transport import HttpTransport, Retries

SEGMENT = 16792
HEADER = 8 + 160  # the length of a safetensors header, and more than half of one
WHOLE = 6 * SEGMENT


def in_use(device):
    return device.in_use.name if device.in_use else None


def assert_sound(device):
    """Every visible segment of the cache is what its name says."""
    for path in (device.cache.folder / "segments").glob("*.safetensors"):
        assert device.cache.verify(path.stem), path


def with_base(make_device, url, **kwargs):
    device = make_device(url, **kwargs)
    device.connect()
    assert device.fetch(max_bytes=SEGMENT).configuration == "toy-0"
    return device


CUTS = {
    "before the first byte": 0,
    "in the length of the header": 5,
    "in the header": HEADER - 20,
    "in a tensor": SEGMENT // 2,
    "before the last byte of a segment": SEGMENT - 1,
    "between segments": SEGMENT,
    "after the first byte of the next": SEGMENT + 1,
    "in the header of the next": SEGMENT + HEADER - 20,
    "in a tensor of a later one": 3 * SEGMENT + 9999,
    "before the last byte of all": 5 * SEGMENT - 1,
}


@pytest.mark.parametrize("static", [False, True], ids=["endpoint", "static"])
@pytest.mark.parametrize("cut_at", CUTS.values(), ids=CUTS.keys())
def test_a_cut_anywhere_is_resumed_at_the_byte(toy_bundle, make_device, cut_at, static):
    with serving(toy_bundle) as (url, served):
        if static:
            url += f"/{served.model.model_id}"
        device = with_base(make_device, url)
        served.requests.clear()
        served.faults = [Fault(cut_at=cut_at if not static else min(cut_at, SEGMENT - 1))]
        outcome = device.upgrade()
        assert outcome.configuration == "toy-5"
        assert outcome.transferred_bytes == WHOLE - SEGMENT
        assert outcome.problems == ()
        # Whole segments are not asked for again; of the one that was cut, the rest is.
        offset = (min(cut_at, SEGMENT - 1) if static else cut_at) % SEGMENT
        ranges = [range_ for _, range_ in served.requests if range_]
        assert ranges == ([f"bytes={offset}-"] if offset else [])
        assert_sound(device)


@pytest.mark.parametrize("cut_at", [5, HEADER - 20, SEGMENT // 2, SEGMENT, SEGMENT + 1])
def test_a_later_process_goes_on_at_the_byte(toy_bundle, make_device, cut_at):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url, attempts=1)
        served.faults = [Fault(cut_at=cut_at)]
        outcome = device.upgrade()
        assert outcome.transferred_bytes == cut_at
        assert "gave up after 1 attempts" in outcome.problems[0]
        assert in_use(device) == ("toy-0" if cut_at < SEGMENT else "toy-1")
        later = make_device(url)
        later.connect()
        assert in_use(later) == in_use(device)
        assert later.upgrade().transferred_bytes == WHOLE - SEGMENT - cut_at
        assert in_use(later) == "toy-5"
        assert_sound(later)


def test_many_cuts_are_no_reason_to_give_up_as_long_as_bytes_come(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url, attempts=2)
        served.faults = [Fault(cut_at=1000)] * 12
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-5", ())
        served.faults = [Fault(cut_at=0)] * 2
        later = make_device(url, folder="later", attempts=2)
        later.connect()
        assert "gave up after 2 attempts" in later.upgrade().problems[0]


def test_an_orderly_end_that_comes_too_early_is_a_cut_too(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url)
        served.faults = [Fault(end_at=SEGMENT + 5000)]
        outcome = device.upgrade()
        assert outcome.configuration == "toy-5"
        assert outcome.transferred_bytes == WHOLE - SEGMENT
        assert served.requests[-1][1] == "bytes=5000-"


def test_a_server_without_ranges_is_read_again_from_its_start(toy_bundle, make_device):
    with serving(toy_bundle, ranges=False) as (url, served):
        device = with_base(make_device, url)
        served.faults = [Fault(cut_at=1000)]
        outcome = device.upgrade()
        assert outcome.configuration == "toy-5"
        # It says honestly what came over the link.
        assert outcome.transferred_bytes == WHOLE - SEGMENT + 1000


def flip(position):
    def replace(body):
        return body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]

    return replace


def test_one_wrong_bit_is_rejected_and_only_that_segment_fetched_again(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url)
        served.faults = [Fault(replace=flip(2 * SEGMENT + 500))]
        outcome = device.upgrade()
        assert outcome.configuration == "toy-5"
        assert len(outcome.problems) == 1
        assert re.search(r"arrived with SHA-256 \w{64}; its 16792 bytes", outcome.problems[0])
        assert_sound(device)


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (flip(SEGMENT - 1), "arrived with SHA-256"),
        (lambda body: body[:-1], "has 16791 bytes; the manifest says 16792"),
        (lambda body: body + b"!", "has 16793 bytes; the manifest says 16792"),
        (lambda body: b"", "has 0 bytes; the manifest says 16792"),
        (lambda body: bytes(len(body)), "arrived with SHA-256"),
    ],
    ids=["one bit", "truncated", "longer", "empty", "zeros"],
)
def test_a_segment_that_stays_wrong_is_reported_and_never_used(
    toy_bundle, make_device, replace, message
):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, f"{url}/{served.model.model_id}")
        bad = served.model.segments[3].sha256

        def content(target, right=served.content):
            found = right(target)
            return (replace(found[0]), True) if bad in target else found

        served.content = content
        outcome = device.upgrade()
        # The good ones before it are used; of those after it none is of use.
        assert outcome.configuration == in_use(device) == "toy-2"
        assert [message in problem for problem in outcome.problems] == [True] * 3 + [False]
        assert f"segment {bad} arrived damaged 3 times" in outcome.problems[-1]
        assert not device.cache.path(bad).exists()
        assert_sound(device)
        # The server is mended: the device goes on.
        served.content = type(served).content.__get__(served)
        assert device.upgrade().configuration == "toy-5"


def test_a_bad_segment_late_in_a_stream_does_not_hold_back_those_before_it(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url)
        bad = served.model.segments[4].sha256
        right = served._segment
        served._segment = lambda sha256: right(sha256)[: -1 if sha256 == bad else None]
        outcome = device.upgrade()
        assert outcome.configuration == "toy-3"
        assert "segment, or a cut one" in outcome.problems[0]


def test_swapped_segments_are_rejected(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url)
        second, third = (segment.sha256 for segment in served.model.segments[1:3])
        swap = {second: third, third: second}
        right = served._segment
        served._segment = lambda sha256: right(swap.get(sha256, sha256))
        outcome = device.upgrade()
        assert outcome.configuration == "toy-0"
        assert f"segment {second} arrived with SHA-256 {third}" in outcome.problems[0]
        assert_sound(device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format_version=99; this version of accordion_jax reads 1"),
        ({"format": "zip"}, "has format='zip'"),
        ({"follows": "0" * 64}, "but its content has the digest"),
    ],
)
def test_a_manifest_that_cannot_be_trusted(toy_bundle, make_device, change, message):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url)
        served.manifest = json.dumps(json.loads(served.manifest) | change).encode()
        # A device that has nothing says so; one that has a model goes on with it.
        with pytest.raises(ManifestError, match=message):
            make_device(url, folder="new").connect()
        later = make_device(url)
        later.connect()
        assert in_use(later) == in_use(device) == "toy-0"
        assert message in later.outcome().problems[0]
        assert later.upgrade().configuration == "toy-5"


def test_no_server_and_no_model_are_errors_that_say_where(toy_bundle, make_device):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ConnectionLostError, match=f"gave up after 2 attempts.*{url}"):
        make_device(url, attempts=2).connect()
    with serving(toy_bundle) as (url, _):
        with pytest.raises(RefusedError, match=f"no manifest of model 'latest' at {url}/bundles"):
            make_device(f"{url}/bundles").connect()
        with pytest.raises(RefusedError, match="answered 404"):
            make_device(url).connect("0" * 64)
    with pytest.raises(ValueError, match="url='ftp://x' must start with http"):
        HttpTransport("ftp://x")


def test_a_busy_server_is_asked_again(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url)
        served.faults = [Fault(status=503), Fault(status=429), Fault(status=500)]
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-5", ())
        served.faults = [Fault(status=403)]
        later = make_device(url, folder="later")
        later.connect()
        assert "answered 403" in later.upgrade().problems[0]


def test_throughput_of_zero_for_a_while(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url, timeout_s=0.2)
        served.faults = [Fault(stall_at=SEGMENT + 3000, stall_s=0.8)]
        seen = []
        done = threading.Event()

        def watch():
            while not done.wait(0.02):
                seen.append(in_use(device))

        watcher = threading.Thread(target=watch)
        watcher.start()
        outcome = device.upgrade()
        done.set()
        watcher.join()
        assert outcome.configuration == "toy-5"
        assert None not in seen
        assert seen == sorted(seen)
        assert outcome.transferred_bytes == WHOLE - SEGMENT


def test_a_connection_that_hangs_does_not_delay_the_deadline(toy_bundle, make_device):
    with serving(toy_bundle) as (url, served):
        device = with_base(make_device, url, timeout_s=10)
        served.faults = [Fault(stall_at=SEGMENT + 3000, stall_s=3.0)]
        start = time.monotonic()
        outcome = device.fetch_by(0.8)
        assert 0.79 < time.monotonic() - start < 1.5
        assert outcome.configuration == "toy-1"
        assert device.upgrade().configuration == "toy-5"
        assert_sound(device)


def test_an_error_of_a_fetch_in_the_background_reaches_the_caller(toy_bundle, make_device):
    with serving(toy_bundle) as (url, _):
        device = with_base(make_device, url)
        with pytest.raises(ValueError, match="max_error=2 must be a share"):
            device.fetch_by(1.0, max_error=2)
        assert device.fetch_by(5.0).configuration == "toy-5"


def test_the_listener_hears_of_bytes_segments_and_targets(toy_bundle, make_device):
    events = []
    with serving(toy_bundle) as (url, _):
        device = make_device(url, listener=events.append)
        device.connect()
        device.upgrade()
    received = [event.received_bytes for event in events]
    assert received == sorted(received)
    assert {event.target_bytes for event in events if event.kind == "bytes"} == {WHOLE}
    assert [event.kind for event in events].count("segment") == 6


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_is_really_full(toy_bundle, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    size = 2 * SEGMENT + 30_000
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)]
    mount = subprocess.run(command, capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mount.stderr.strip()}")
    try:
        with serving(toy_bundle) as (url, _):
            transport = HttpTransport(url)
            device = Device(transport, SegmentCache(small))
            device.connect()
            outcome = device.upgrade()
            reached = in_use(device)
            assert reached in ("toy-0", "toy-1")
            assert "no room in" in outcome.problems[0]
            assert "No space left on device" in outcome.problems[0]
            assert_sound(device)
            # And again: it neither loses what it has nor gets further.
            device.upgrade()
            assert in_use(device) == reached
            # Room is made: it goes on from the byte.
            remount = ["mount", "-o", "remount,size=1m", str(small)]
            subprocess.run(remount, check=True)
            assert device.upgrade().configuration == "toy-5"
            assert_sound(device)
            device.close()
            transport.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_is_full_from_the_first_byte(toy_bundle, make_device, monkeypatch):
    with serving(toy_bundle) as (url, _):
        device = with_base(make_device, url)

        def full(self, *args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "open", full)
            outcome = device.upgrade()
        assert "no room in" in outcome.problems[0]
        assert in_use(device) == "toy-0"
        assert device.upgrade().configuration == "toy-5"


def upgrade_in_process(url, folder, mbps, results):
    client = httpx.Client(transport=ThrottledTransport(httpx.HTTPTransport(), Link(constant(mbps))))
    transport = HttpTransport(url, client=client, retries=Retries(first_wait_s=0.01))
    device = Device(transport, SegmentCache(folder))
    device.connect()
    outcome = device.upgrade()
    results.put((outcome.configuration, outcome.transferred_bytes))


def test_two_processes_that_share_a_cache_load_each_byte_once(toy_bundle, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    with serving(toy_bundle) as (url, _):
        processes = [
            spawn.Process(target=upgrade_in_process, args=(url, tmp_path, 1.0, results))
            for _ in range(2)
        ]
        for process in processes:
            process.start()
        found = [results.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
    assert [configuration for configuration, _ in found] == ["toy-5"] * 2
    assert sum(transferred for _, transferred in found) == WHOLE


def test_a_process_killed_in_the_middle_leaves_what_it_had(toy_bundle, tmp_path, make_device):
    spawn = multiprocessing.get_context("spawn")
    with serving(toy_bundle) as (url, _):
        args = (url, tmp_path / "cache", 0.5, spawn.Queue())
        process = spawn.Process(target=upgrade_in_process, args=args)
        process.start()
        segments = tmp_path / "cache" / "segments"
        limit = time.monotonic() + 30
        while len(list(segments.glob("*.safetensors"))) < 2 and time.monotonic() < limit:
            time.sleep(0.01)
        process.kill()
        process.join()
        before = sum(path.stat().st_size for path in segments.iterdir())
        device = make_device(url)
        device.connect()
        assert in_use(device) != "toy-5"
        assert device.upgrade().transferred_bytes == WHOLE - before
        assert_sound(device)


def test_the_endpoint_is_killed_and_restarted_in_the_middle(toy_bundle, tmp_path):
    bundles = tmp_path / "bundles"
    shutil.copytree(toy_bundle, bundles / toy_bundle.name)
    endpoint, url = start_endpoint(bundles)
    try:
        throttled = ThrottledTransport(httpx.HTTPTransport(), Link(constant(0.4)))
        with httpx.Client(transport=throttled) as client:
            transport = HttpTransport(
                url,
                client=client,
                timeout_s=20,
                retries=Retries(attempts=1000, first_wait_s=0.05, longest_wait_s=0.1),
            )
            device = Device(transport, SegmentCache(tmp_path / "cache"))
            device.connect()
            device.fetch(max_bytes=SEGMENT)
            worker = threading.Thread(target=device.upgrade)
            worker.start()
            time.sleep(0.5)
            stop(endpoint)
            time.sleep(0.5)
            while_dead = in_use(device)
            assert while_dead in ("toy-0", "toy-1", "toy-2")
            assert worker.is_alive()
            endpoint, _ = start_endpoint(bundles, port=httpx.URL(url).port)
            worker.join(60)
            assert not worker.is_alive()
            assert in_use(device) == "toy-5"
            assert device.outcome().problems == ()
            assert_sound(device)
            device.close()
    finally:
        stop(endpoint)


@contextlib.contextmanager
def plain_web_server(folder):
    """Python's own, which knows neither ranges nor plans."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_any_web_server_with_the_folder_will_do(toy_bundle, make_device):
    with plain_web_server(toy_bundle.parent) as url:
        for address in (f"{url}/{toy_bundle.name}", f"{url}/{toy_bundle.name}/manifest.json"):
            device = make_device(address, folder=address[-5:])
            device.connect()
            assert not device.transport.streams
            first = device.fetch(max_error=0.3, max_bytes=3 * SEGMENT)
            assert (first.configuration, first.transferred_bytes) == ("toy-2", 3 * SEGMENT)
            assert device.upgrade().transferred_bytes == 3 * SEGMENT
        by_id = make_device(url, folder="by id")
        by_id.connect(toy_bundle.name)
        assert by_id.upgrade().configuration == "toy-5"
    # The address names the model, so a later device needs no network for its manifest.
    later = make_device(address, folder=address[-5:])
    later.connect()
    assert (in_use(later), later.outcome().problems) == ("toy-5", ())


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_before_the_endpoint_is_one_endpoint(toy_bundle, tmp_path, make_device):
    bundles = tmp_path / "bundles"
    shutil.copytree(toy_bundle, bundles / toy_bundle.name)
    with (
        running_endpoint(bundles) as endpoint,
        nginx(bundles, endpoint.removeprefix("http://"), tmp_path / "nginx") as url,
    ):
        device = with_base(make_device, url)
        assert device.upgrade().transferred_bytes == WHOLE - SEGMENT
        assert_sound(device)
        device.close()


def test_plans_of_the_real_endpoint_are_those_of_the_device(toy_bundle, tmp_path):
    bundles = tmp_path / "bundles"
    shutil.copytree(toy_bundle, bundles / toy_bundle.name)
    with running_endpoint(bundles) as url:
        found = []
        for at_endpoint in (False, True):
            transport = HttpTransport(url)
            cache = SegmentCache(tmp_path / f"cache{at_endpoint}")
            device = Device(transport, cache, plan_at_endpoint=at_endpoint)
            device.connect()
            found.append([device.fetch(max_error=0.3), device.fetch(max_bytes=2 * SEGMENT)])
            assert transport.other_bytes > 0
            # The manifest is not sent again.
            before = transport.other_bytes
            again = Device(transport, SegmentCache(cache.folder))
            again.connect()
            assert transport.other_bytes == before
            assert in_use(again) == in_use(device)
            device.close()
            transport.close()
        for one, other in zip(*found, strict=True):
            assert one.configuration == other.configuration
            assert one.transferred_bytes == other.transferred_bytes
            assert one.problems == other.problems == ()
