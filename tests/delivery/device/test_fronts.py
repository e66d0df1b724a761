"""Fronts that are cut, changed, out of order, endless or foreign: the device gets its model anyway.

Only what was checked is used, no more is read than there can be, and what was checked stays.
"""

import functools
import gzip
import itertools
import pathlib
import tempfile
import tracemalloc

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.front import Head, front_bytes
from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import ConnectionLostError
from tests.delivery.checks import assert_sound, in_use
from tests.delivery.odd import Answer, odd_device
from tests.delivery.toys import make_parts


@functools.cache
def toy():
    """(bundle of four segments, its manifest, digest -> bytes)."""
    bundle = write_bundle(tempfile.mkdtemp(), **make_parts(blocks=3, width=8))
    manifest = read_manifest(bundle)
    contents = {s.sha256: segment_path(bundle, s.sha256).read_bytes() for s in manifest.segments}
    return bundle, manifest, contents


def whole(places=(0, 1, 2, 3), offset=0):
    """A front with these segments, as an endpoint would send it."""
    _, manifest, contents = toy()
    segments = [manifest.segments[place] for place in places]
    body = b"".join(contents[segment.sha256] for segment in segments)
    document = manifest.to_bytes()
    head = Head.of(manifest, segments, document=document, offset=offset)
    return head.to_bytes() + body[offset:]


def answered(*bodies, headers=None, length=True):
    """Fronts of these bodies, one a request; the last again and again."""
    left = list(bodies)

    def front(_request):
        body = left.pop(0) if len(left) > 1 else left[0]
        given = {"Content-Length": str(len(body))} if length and isinstance(body, bytes) else {}
        return Answer(200, given | (headers or {}), body)

    return front


def pieces(body, size):
    return (body[start : start + size] for start in range(0, len(body), size))


def cut(body, end):
    """A body that ends in a lost connection."""

    def broken():
        yield body[:end]
        raise httpx.ReadError("cut")

    return broken()


def url_of(kind):
    return f"http://odd/{toy()[0].name}" if kind == "static" else "http://odd"


KINDS = ["endpoint", "static"]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_cut_anywhere_no_byte_comes_twice(kind, data):
    bundle, manifest, _ = toy()
    body = whole()
    end = data.draw(st.integers(0, len(body)))
    with (
        tempfile.TemporaryDirectory() as folder,
        odd_device(bundle, folder, url=url_of(kind), front=answered(cut(body, end), body)) as (
            device,
            odd,
        ),
    ):
        device.connect()
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-3", ())
        assert outcome.transferred_bytes == manifest.size_bytes
        head = len(body) - manifest.size_bytes
        # Before the head is whole, the request is made again; after it, only the rest is asked for.
        fronts = [request for request in odd.requests if request.url.path.endswith("/front")]
        assert len(fronts) == (2 if end < head else 1)
        assert_sound(device)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_is_changed_nothing_unchecked_is_used(kind, data):
    bundle, manifest, contents = toy()
    body = whole()
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(body))] * 2)))
    changed = {
        "flip": body[:first] + bytes(each ^ 0x55 for each in body[first:last]) + body[last:],
        "swap": body[last:] + body[first:last] + body[:first],
        "drop": body[:first] + body[last:],
        "repeat": body[:last] + body[first:],
    }[data.draw(st.sampled_from(["flip", "swap", "drop", "repeat"]))]
    size = data.draw(st.sampled_from([1 << 16, 700, 61]))
    with (
        tempfile.TemporaryDirectory() as folder,
        odd_device(
            bundle,
            folder,
            url=url_of(kind),
            front=lambda _: Answer(200, {}, pieces(changed, size)),
        ) as (device, odd),
    ):
        try:
            device.connect()
        except ConnectionLostError:  # the head ends early, each time it is asked for
            assert len(odd.requests) == 3
            return
        assert device.manifest == manifest
        device.upgrade()
        assert in_use(device) == "toy-3"
        for sha256, content in contents.items():
            assert device.cache.read(sha256) == content


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        (b"<!doctype html><title>our shop</title>" + bytes(99), "is no front: it begins with"),
        (b"accfrnt\x02" + bytes(99), "version 2; wanted 1"),
        (b"accfrnt\x01" + bytes(32) + b"\xff" * 99, "at most 16777216 are read"),
        (lambda: whole((0, 3, 1)), None),
    ],
    ids=["html", "newer", "huge", "another order"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_used_is_asked_for_as_before(kind, front, reason, tmp_path):
    bundle = toy()[0]
    body = front if isinstance(front, bytes) else front()
    said = []
    with odd_device(
        bundle,
        tmp_path,
        url=url_of(kind),
        front=answered(body),
        listener=lambda event: said.append(event.message),
    ) as (device, odd):
        device.connect()
        told = [message for message in said if message]
        if reason is None:
            assert told == []
        else:
            assert len(told) == 1
            assert reason in told[0]
            assert "the manifest had to be asked for by itself" in told[0]
            assert len(odd.requests) == 2
        assert device.upgrade().configuration == "toy-3"
        assert_sound(device)


def test_a_manifest_of_another_model_is_not_taken(tmp_path):
    bundle, manifest, _ = toy()
    other = read_manifest(write_bundle(tmp_path / "other", **make_parts(blocks=1, seed=7)))
    swapped = Head(manifest.model_id, other.to_bytes(), None).to_bytes()
    foreign = Head(other.model_id, other.to_bytes(), None).to_bytes()
    nothing = Head(manifest.model_id, None, None).to_bytes()
    damaged = Head(manifest.model_id, manifest.to_bytes().replace(b"toy", b"boy"), None).to_bytes()
    for number, (body, kind) in enumerate(
        [(swapped, "endpoint"), (foreign, "static"), (nothing, "endpoint"), (damaged, "static")]
    ):
        folder = tmp_path / str(number)
        with odd_device(bundle, folder, url=url_of(kind), front=answered(body)) as (device, _):
            device.connect()
            assert device.manifest == manifest
            assert device.upgrade().configuration == "toy-3"


def test_a_segment_of_another_model_costs_one_more_request(tmp_path):
    bundle, manifest, contents = toy()
    wrong = dict.fromkeys(contents, bytes(manifest.segments[0].size_bytes))
    body = front_bytes(manifest, wrong.__getitem__)
    with odd_device(bundle, tmp_path, url=url_of("static"), front=answered(body)) as (device, _):
        device.connect()
        outcome = device.upgrade()
        assert outcome.configuration == "toy-3"
        assert "arrived with SHA-256" in outcome.problems[0]
        assert outcome.transferred_bytes == manifest.size_bytes + manifest.segments[0].size_bytes


@pytest.mark.parametrize("length", [True, False])
def test_what_comes_after_the_segments_is_not_read(length, tmp_path):
    bundle = toy()[0]

    def endless():
        yield whole()
        yield from itertools.repeat(bytes(4096))

    headers = {"Content-Length": str(10**12)} if length else {}
    with odd_device(bundle, tmp_path, front=lambda _: Answer(200, headers, endless())) as (
        device,
        odd,
    ):
        device.connect()
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-3", ())
        assert odd.taken_bytes <= len(whole()) + 2 * 4096
        assert device.clock.now() < 1


def test_an_endless_head_ends_at_the_largest_manifest(tmp_path):
    bundle = toy()[0]
    start = whole()[:8] + bytes(32) + MAX_MANIFEST_BYTES.to_bytes(4, "big") + bytes(14)

    def endless():
        yield start
        yield from itertools.repeat(bytes(65536))

    with odd_device(bundle, tmp_path, front=lambda _: Answer(200, {}, endless())) as (device, odd):
        tracemalloc.start()
        try:
            device.connect()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert odd.taken_bytes < MAX_MANIFEST_BYTES + 200_000
        assert peak < 3 * MAX_MANIFEST_BYTES
        assert device.upgrade().configuration == "toy-3"


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, gzip"])
def test_a_coding_on_the_way_is_taken_off_or_the_front_is_left(coding, tmp_path):
    bundle = toy()[0]
    body = gzip.compress(whole())
    front = answered(body, headers={"Content-Encoding": coding})
    with odd_device(bundle, tmp_path, front=front) as (device, odd):
        device.connect()
        asked = len(odd.requests)
        assert asked == (1 if coding == "gzip" else 2)
        assert device.upgrade().configuration == "toy-3"
        assert len(odd.requests) == (1 if coding == "gzip" else 3)


def test_a_front_that_drips_is_given_up_at_the_deadline(tmp_path):
    bundle = toy()[0]
    for body in (whole(), whole()[:70]):

        def dripping(_request, body=body):
            drops = ((drop, 1.0) for drop in pieces(body, 10))
            return Answer(200, {}, itertools.chain.from_iterable(drops))

        with (
            odd_device(bundle, tmp_path, front=dripping) as (device, _),
            pytest.raises(ConnectionLostError, match="when time was over"),
        ):
            device.connect(deadline_s=3.0)
        assert device.clock.now() <= 4.5


def test_a_stream_that_drips_is_left_at_the_deadline_with_what_came(tmp_path):
    bundle, manifest, _ = toy()
    body = whole()
    start = len(body) - manifest.size_bytes + manifest.segments[0].size_bytes
    drops = itertools.chain.from_iterable((drop, 1.0) for drop in pieces(body[start:], 10))
    front = lambda _: Answer(200, {}, itertools.chain([body[:start]], drops))  # noqa: E731
    with odd_device(bundle, tmp_path, front=front) as (device, odd):
        device.connect()
        outcome = device.fetch(deadline_s=5.0)
        assert outcome.configuration == "toy-0"
        assert device.clock.now() <= 7
        came = outcome.transferred_bytes - manifest.segments[0].size_bytes
        assert 0 < came < 100
        odd._front = None
        assert device.upgrade().transferred_bytes <= manifest.size_bytes - outcome.transferred_bytes


def test_what_an_endpoint_says_the_device_has_is_not_taken_on_trust(tmp_path):
    """An offset that is none of the device's: the segment is asked for as it is."""
    bundle = toy()[0]
    with odd_device(bundle, tmp_path, front=answered(whole(offset=100))) as (device, _):
        device.connect()
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-3", ())
        assert_sound(device)


def test_redirects_lead_to_a_front(tmp_path):
    bundle = toy()[0]

    def front(request):
        if request.url.host == "odd":
            return Answer(307, {"Location": f"http://there{request.url.path}"})
        return Answer(200, {}, whole())

    with odd_device(bundle, tmp_path, front=front) as (device, odd):
        device.connect()
        assert device.upgrade().configuration == "toy-3"
        assert [request.method for request in odd.requests] == ["POST", "POST"]


def test_a_busy_endpoint_is_asked_again(tmp_path):
    bundle = toy()[0]
    answers = iter([Answer(503, {"Retry-After": "5"}), Answer(200, {}, whole())])
    with odd_device(bundle, tmp_path, front=lambda _: next(answers)) as (device, odd):
        device.connect()
        assert device.clock.now() >= 5
        assert len(odd.requests) == 2
        assert pathlib.PurePosixPath(odd.requests[1].url.path).name == "front"
