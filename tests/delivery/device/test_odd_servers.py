"""Servers that answer in ways that HTTP allows, or does not: the device gets its model anyway."""

import gzip
import itertools
import re
import shutil
import tracemalloc
import zlib

import httpx
import pytest

from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES
from accordion_jax.delivery.bundle.reading import segment_path
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import ConnectionLostError, RefusedError, TransportError
from tests.delivery.checks import SEGMENT, WHOLE, assert_sound, in_use
from tests.delivery.live import serving
from tests.delivery.odd import Answer, odd_device


def is_of_segments(request):
    return "/segments/" in request.url.path or "/stream" in request.url.path


@pytest.mark.parametrize("missing", [1, 4, 5])
def test_a_segment_that_is_missing_there_does_not_hold_back_those_before_it(
    toy_bundle, tmp_path, make_device, missing
):
    bundle = shutil.copytree(toy_bundle, tmp_path / "bundles" / toy_bundle.name)
    with serving(make_app(BundleStore(str(bundle.parent), refresh_s=0))) as url:
        device = make_device(url, attempts=2)
        device.connect()
        segment_path(bundle, device.manifest.segments[missing].sha256).unlink()
        outcome = device.upgrade()
        assert outcome.configuration == f"toy-{missing - 1}"
        assert outcome.transferred_bytes == missing * SEGMENT
        assert outcome.problems
        # It comes back: the device goes on.
        shutil.copytree(toy_bundle, bundle, dirs_exist_ok=True)
        assert device.upgrade().configuration == "toy-5"
        assert_sound(device)


@pytest.mark.parametrize("status", [400, 404, 413, 414, 431, 500, 503])
def test_what_cannot_be_sent_together_is_sent_one_by_one(toy_bundle, tmp_path, status):
    def answer(request, right):
        return Answer(status) if "/stream" in request.url.path else right

    with odd_device(toy_bundle, tmp_path, answer) as (device, _):
        device.connect()
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-5", ())


def no_content_range(request, right):
    return Answer(206, {}, right.body)


def whole_as_range(request, right):
    whole = segment_path(right.bundle, right.sha256).read_bytes()
    return Answer(206, {"Content-Range": f"bytes 0-{SEGMENT - 1}/{SEGMENT}"}, whole)


def whole_under_the_right_range(request, right):
    whole = segment_path(right.bundle, right.sha256).read_bytes()
    return Answer(206, right.headers | {"Content-Length": str(SEGMENT)}, whole)


def whole_under_the_right_range_and_no_length(request, right):
    return Answer(206, right.headers, segment_path(right.bundle, right.sha256).read_bytes())


def slice_as_whole(request, right):
    return Answer(200, {"Content-Length": str(len(right.body))}, right.body)


def no_such_range(request, right):
    return Answer(416, {}, b"no")


def huge_range(request, right):
    return Answer(206, {"Content-Range": f"bytes {'9' * 5000}-{'9' * 5000}/*"}, right.body)


@pytest.mark.parametrize(
    "odd_answer",
    [
        no_content_range,
        whole_as_range,
        whole_under_the_right_range,
        whole_under_the_right_range_and_no_length,
        slice_as_whole,
        no_such_range,
        huge_range,
    ],
)
def test_where_a_range_is_answered_oddly_the_segment_is_begun_anew(
    toy_bundle, tmp_path, odd_answer
):
    def answer(request, right):
        if "Range" not in request.headers:
            return right
        right.bundle, right.sha256 = toy_bundle, re.findall("[0-9a-f]{64}", str(request.url))[-1]
        return odd_answer(request, right)

    with odd_device(toy_bundle, tmp_path, answer) as (device, _):
        manifest = device.connect()
        base = manifest.segments[0]
        with device.cache.download(base.sha256, base.size_bytes) as download:
            download.write(segment_path(toy_bundle, base.sha256).read_bytes()[:9000])
        outcome = device.fetch(max_error=1.0)
        assert outcome.configuration == "toy-0"
        assert not any("damaged 3 times" in problem for problem in outcome.problems)
        assert device.upgrade().configuration == "toy-5"
        assert_sound(device)


def test_a_part_that_is_wrong_on_the_disk_does_not_spoil_the_download_for_ever(
    toy_bundle, tmp_path
):
    with odd_device(toy_bundle, tmp_path, lambda request, right: right) as (device, _):
        base = device.connect().segments[0]
        with device.cache.download(base.sha256, base.size_bytes) as download:
            download.write(bytes(9000))
        assert device.upgrade().configuration == "toy-5"


def packed(request, right):
    if not is_of_segments(request):
        return right
    body = gzip.compress(right.body, mtime=0)
    return Answer(
        right.status,
        right.headers | {"Content-Encoding": "gzip", "Content-Length": str(len(body))},
        (body[i : i + 1000] for i in range(0, len(body), 1000)),
    )


@pytest.mark.parametrize("part", [0, 9000])
def test_segments_that_are_packed_on_the_way_are_unpacked(toy_bundle, tmp_path, part):
    with odd_device(toy_bundle, tmp_path, packed) as (device, odd):
        base = device.connect().segments[0]
        with device.cache.download(base.sha256, base.size_bytes) as download:
            download.write(segment_path(toy_bundle, base.sha256).read_bytes()[:part])
        outcome = device.upgrade()
        assert (outcome.configuration, outcome.problems) == ("toy-5", ())
        assert all(
            request.headers["Accept-Encoding"] == "identity"
            for request in odd.requests
            if is_of_segments(request)
        )


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "deflate", "\x1b[2J"])
def test_another_coding_is_named(toy_bundle, tmp_path, coding):
    def answer(request, right):
        return Answer(right.status, {"Content-Encoding": coding}, right.body)

    with odd_device(toy_bundle, tmp_path, answer) as (device, _):
        with pytest.raises(TransportError, match="only gzip or none can be read") as error:
            device.connect()
        assert "\x1b" not in str(error.value)


def make_bomb():
    """Gzip of 200 million zeros: about 200 kB."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()


BOMB = make_bomb()


def endless():
    return itertools.repeat(b"x" * 65536)


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("a bomb", lambda: Answer(200, {"Content-Encoding": "gzip"}, BOMB)),
        ("no end", lambda: Answer(200, {}, endless())),
        ("no end of a refusal", lambda: Answer(404, {}, endless())),
        ("no end of a packed refusal", lambda: Answer(404, {"Content-Encoding": "gzip"}, BOMB)),
        ("no end of a redirect", lambda: Answer(302, {"Location": "/elsewhere"}, endless())),
        ("no end of a busy server", lambda: Answer(503, {}, endless())),
    ],
)
def test_no_answer_takes_more_memory_than_a_manifest(toy_bundle, tmp_path, what, answer):
    with odd_device(toy_bundle, tmp_path, lambda *_: answer()) as (device, odd):
        tracemalloc.start()
        with pytest.raises(TransportError):
            device.connect()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # The body of a test's bomb itself is in memory, and a bytearray grows in steps.
        assert most < 3 * MAX_MANIFEST_BYTES
        assert odd.taken_bytes < 2 * MAX_MANIFEST_BYTES


def test_segments_that_never_end_are_cut_off(toy_bundle, tmp_path):
    def answer(request, right):
        return Answer(200, {}, endless()) if is_of_segments(request) else right

    with odd_device(toy_bundle, tmp_path, answer) as (device, odd):
        device.connect()
        assert "arrived damaged 3 times" in device.upgrade().problems[-1]
        assert odd.taken_bytes < 20 * WHOLE


def test_redirects_are_followed_to_the_web_only(toy_bundle, tmp_path):
    moved = {"Location": "http://elsewhere/there?token=1"}

    def answer(request, right):
        if request.url.host == "odd":
            target = f"http://elsewhere{request.url.raw_path.decode()}"
            return Answer(307, {"Location": target}, b"moved")
        return right

    with odd_device(toy_bundle, tmp_path / "1", answer) as (device, _):
        device.connect()
        assert device.upgrade().configuration == "toy-5"
    for location in ("javascript:1", "file:///etc/passwd", "", "http://", "x:y"):
        wrong = {"Location": location}
        with (
            odd_device(toy_bundle, tmp_path / "2", lambda *_, w=wrong: Answer(302, w)) as (
                device,
                _,
            ),
            pytest.raises(RefusedError),
        ):
            device.connect()
    with (
        odd_device(toy_bundle, tmp_path / "3", lambda *_: Answer(302, moved)) as (device, _),
        pytest.raises(RefusedError, match="redirects more than 5 times"),
    ):
        device.connect()


@pytest.mark.parametrize(
    ("hint", "least", "most"),
    [
        ("5", 5, 5),
        ("0", 0, 5),
        ("3600", 60, 60),
        ("soon", 0, 5),
        ("9" * 5000, 0, 5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 5),
        ("Wed, 21 Oct 2215 07:28:00 GMT", 60, 60),
    ],
)
def test_a_server_says_how_long_to_wait(toy_bundle, tmp_path, hint, least, most):
    waits = []

    def answer(request, right):
        waits.append(device.clock.now())
        return Answer(503, {"Retry-After": hint}) if len(waits) < 2 else right

    with odd_device(toy_bundle, tmp_path, answer) as (device, _):
        device.connect()
    assert least <= waits[1] - waits[0] <= most


def test_a_byte_a_connection_is_no_progress(toy_bundle, tmp_path):
    def cut():
        yield b"x"
        raise httpx.ReadError("cut")

    def answer(request, right):
        return Answer(206 if "Range" in request.headers else 200, right.headers, cut())

    with odd_device(toy_bundle, tmp_path, lambda request, right: right) as (device, odd):
        device.connect()
        odd._answer = answer
        odd.requests.clear()
        assert "gave up after 3 attempts" in device.upgrade().problems[0]
        assert len(odd.requests) == 3


SIGNED = "http://user:WORD@odd?sig=SECRET&x=1"


def test_a_query_goes_with_each_request_and_into_no_message(toy_bundle, tmp_path):
    with odd_device(toy_bundle, tmp_path / "1", lambda *_: None, SIGNED) as (device, odd):
        device.connect()
        assert device.upgrade().configuration == "toy-5"
        assert all(b"sig=SECRET&x=1" in request.url.query for request in odd.requests)
        assert odd.requests[0].url.path == "/v1/models/latest"
        assert b"segments=" in odd.requests[-1].url.query
    # Where the model lies as a folder, with the query of another day: what is kept is found.
    folder = f"http://odd/{toy_bundle.name}"
    with odd_device(toy_bundle, tmp_path / "2", lambda *_: None, f"{folder}?sig=1") as (
        device,
        odd,
    ):
        device.connect()
        assert device.upgrade().configuration == "toy-5"
    with odd_device(toy_bundle, tmp_path / "2", lambda *_: None, f"{folder}?sig=2") as (
        device,
        odd,
    ):
        device.connect(offline=True)
        assert in_use(device) == "toy-5"

    def refuse(request, right):
        raise httpx.ConnectError("no")

    for answer in (lambda *_: Answer(403, {}, b"forbidden"), refuse):
        with (
            odd_device(toy_bundle, tmp_path / "3", answer, SIGNED) as (device, _),
            pytest.raises(TransportError) as error,
        ):
            device.connect()
        assert not re.search("SECRET|WORD", str(error.value))
    for wrong in ("ftp://user:WORD@x?sig=SECRET", "http://[user:WORD@::?sig=SECRET", "x?SECRET"):
        with (
            pytest.raises(ValueError, match="must start with http://") as error,
            odd_device(toy_bundle, tmp_path / "4", lambda *_: None, wrong),
        ):
            pass
        assert not re.search("SECRET", str(error.value))


def test_text_of_a_server_does_not_act_on_a_terminal(toy_bundle, tmp_path):
    with (
        odd_device(toy_bundle, tmp_path, lambda *_: Answer(403, {}, b"\x1b]0;name\x07\x1b[2J")) as (
            device,
            _,
        ),
        pytest.raises(RefusedError) as error,
    ):
        device.connect()
    assert str(error.value).isprintable()
    assert r"\x1b[2J" in str(error.value)


def test_retries_end_where_the_time_does(toy_bundle, tmp_path):
    def answer(request, right):
        return Answer(200, {}, itertools.chain.from_iterable(zip(itertools.repeat(1.0), endless())))

    with odd_device(toy_bundle, tmp_path, answer) as (device, _):
        with pytest.raises(ConnectionLostError, match="when time was over"):
            device.transport.manifest(until_s=device.clock.now() + 5)
        assert device.clock.now() <= 6.5


def test_the_cache_is_not_touched_by_any_of_it(toy_bundle, tmp_path):
    with odd_device(toy_bundle, tmp_path, packed) as (device, _):
        device.connect()
        device.upgrade()
    assert not list((SegmentCache(tmp_path).folder / "segments").glob("*.part"))
