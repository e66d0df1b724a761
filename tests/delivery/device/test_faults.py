"""What goes wrong between a device and a real server, and that the device goes on.

Each test ends with the device at the depth it had or deeper, and the cache sound.
"""

import json
import re
import socket
import threading
import time

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import ConnectionLostError, ManifestError, RefusedError
from tests.delivery.checks import SEGMENT, WHOLE, assert_sound, in_use, with_base
from tests.delivery.servers import Fault, serving

HEADER = 8 + 160  # the length of a safetensors header, and more than half of one

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
        ({"format_version": 99}, "has format_version=99; this version of accordion_jax reads 2"),
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
        stall = Fault(stall_at=SEGMENT + 3000, stall_s=600)
        served.faults = [stall]
        start = time.monotonic()
        outcome = device.fetch_by(0.8)
        assert time.monotonic() - start > 0.79
        # It has returned, though nothing more can have come: the server still waits.
        assert outcome.configuration in ("toy-0", "toy-1")
        stall.go_on.set()
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


@pytest.mark.parametrize("segments", range(1, 6))
def test_bytes_that_came_with_those_before_are_not_paid_twice(toy_bundle, make_device, segments):
    """A socket gives several small segments at once: the plan between them must count the rest."""
    sizes = [segment.size_bytes for segment in read_manifest(toy_bundle).segments]
    with serving(toy_bundle) as (url, _):
        device = make_device(url)
        device.connect()
        outcome = device.fetch(max_bytes=sum(sizes[:segments]))
        assert outcome.configuration == f"toy-{segments - 1}"
        assert outcome.transferred_bytes == sum(sizes[:segments])
        assert_sound(device)
