import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accordion_jax.delivery.endpoint.http_range import (
    UnsatisfiableRangeError,
    is_unmodified,
    parse_range,
    range_applies,
)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-9", (0, 10)),
        ("bytes=0-99", (0, 10)),
        ("BYTES=3-", (3, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=9-9", (9, 10)),
        ("bytes=0000000000000000000003-4", (3, 5)),
        ("bytes=3-" + "9" * 5000, (3, 10)),
        # What the RFC lets a server ignore: other units, several ranges, what does not parse.
        ("items=0-1", None),
        ("bytes=0-1,3-4", None),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("bytes= 0-1", None),
        ("bytes=0-1-2", None),
        ("bytes=--1", None),
        ("bytes=\u0663-", None),
    ],
)
def test_ranges_of_ten_bytes(header, wanted):
    assert parse_range(header, 10) == wanted


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=" + "9" * 5000 + "-"]
)
def test_what_begins_after_the_end(header):
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 10)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 60))
def test_agrees_with_slicing(length, first, more):
    whole = bytes(range(length))
    if first < length:
        start, stop = parse_range(f"bytes={first}-{first + more}", length)
        assert whole[start:stop] == whole[first : first + more + 1]
        start, stop = parse_range(f"bytes={first}-", length)
        assert whole[start:stop] == whole[first:]
    if more:
        start, stop = parse_range(f"bytes=-{more}", length)
        assert whole[start:stop] == whole[-more:]


@settings(deadline=None)
@given(st.text(max_size=30), st.integers(0, 10))
def test_no_header_breaks_it(text, length):
    for header in (text, f"bytes={text}"):
        try:
            part = parse_range(header, length)
        except UnsatisfiableRangeError:
            continue
        assert part is None or 0 <= part[0] < part[1] <= length


def test_conditions():
    assert range_applies(None, '"a"')
    assert range_applies(' "a"', '"a"')
    assert not range_applies('W/"a"', '"a"')
    assert not range_applies("Tue, 15 Nov 1994 12:45:26 GMT", '"a"')
    assert not is_unmodified(None, '"a"')
    assert is_unmodified("*", '"a"')
    assert is_unmodified('"b", W/"a"', '"a"')
    assert not is_unmodified('"b"', '"a"')
