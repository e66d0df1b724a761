import itertools
import math
import os

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accordion_jax.delivery.links.clock import RealClock, VirtualClock
from accordion_jax.delivery.links.link import Link, ThrottledTransport
from accordion_jax.delivery.links.traces import Trace, constant, find_traces, read_trace


def make_trace(*pairs):
    """A trace of (seconds, Mbit/s) pieces, one after another."""
    ends = list(itertools.accumulate(seconds for seconds, _ in pairs))
    return Trace("test", (0.0, *ends[:-1]), tuple(rate * 1e6 for _, rate in pairs), ends[-1])


def bytes_of(mbit):
    return mbit * 1e6 / 8


def test_a_transfer_takes_the_time_that_the_rates_say():
    link = Link(make_trace((1, 8), (2, 0), (1, 4)))  # 12 Mbit in 4 s
    cases = [  # start, Mbit, seconds
        (0, 0, 0),
        (0, 4, 0.5),
        (0, 8, 1),  # ends with the last bit, not after the outage
        (0, 9, 3.25),
        (0.5, 4, 0.5),
        (1.5, 2, 2.0),  # begins in the outage
        (0, 12, 4),  # exactly one round
        (0, 12 + 8, 5),
        (0, 24 + 9, 8 + 3.25),
        (3.5, 2 + 8, 1.5),  # over the end of a round
        (4, 8, 1),
        (400.5, 4, 0.5),
    ]
    for start, mbit, seconds in cases:
        assert link.transfer_time(start, bytes_of(mbit)) == pytest.approx(seconds), (start, mbit)
    starts, sizes, seconds = np.array(cases).T
    np.testing.assert_allclose(link.transfer_time(starts, bytes_of(sizes)), seconds)
    assert link.transfer_time(starts[:, None], sizes[None, :]).shape == (12, 12)
    assert link.mean_bps == 3e6
    # A round that ends in an outage is over with its last bit.
    ends_dead = Link(make_trace((1, 8), (2, 0)))
    assert ends_dead.transfer_time(0, bytes_of(16)) == 4


def test_without_looping_nothing_comes_after_the_end():
    link = Link(make_trace((1, 8), (1, 0)), loop=False)
    assert link.transfer_time(0, bytes_of(8)) == 1
    assert link.transfer_time(0, bytes_of(8.1)) == math.inf
    assert link.transfer_time(5, bytes_of(1)) == math.inf
    assert link.transfer_time(5, 0) == 0
    assert link.capacity_bits(0.5, 9) == 4e6


def test_a_dead_link_never_delivers():
    for loop in (True, False):
        link = Link(make_trace((3, 0)), loop=loop)
        assert link.transfer_time(1, [0, 1]).tolist() == [0, math.inf]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20).map(lambda n: n / 4), st.sampled_from([0, 0, 1, 3, 50])),
        min_size=1,
        max_size=8,
    ),
    st.floats(0, 100),
    st.integers(1, 10**8),
    st.booleans(),
)
def test_the_capacity_over_the_transfer_time_is_the_size(pieces, start, size, loop):
    link = Link(make_trace(*pieces), loop=loop)
    took = float(link.transfer_time(start, size))
    if math.isinf(took):
        assert link.capacity_bits(start, start + 1e9) < size * 8 or link.mean_bps == 0
        return
    capacity = float(link.capacity_bits(start, start + took))
    assert capacity == pytest.approx(size * 8, rel=1e-6, abs=100)
    # The smallest such time: a little less carries less.
    assert link.capacity_bits(start, start + took * 0.999 - 1e-6) < size * 8
    more = float(link.transfer_time(start, 2 * size))
    assert more >= took


def test_reading_a_trace(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time_s,downlink_mbps,network\n5,2,5G\n6,4,5G\n6,0,LTE\n9,1,5G\n10,3,5G\n")
    trace = read_trace(path)
    # Repeated times are averaged, a gap keeps the rate before it, the last lasts the median.
    assert trace.times_s == (0, 1, 4, 5)
    assert trace.rates_bps == (2e6, 2e6, 1e6, 3e6)
    assert (trace.name, trace.end_s) == ("a", 6)
    path.write_text("downlink_mbps,time_s\n7,0\n")
    assert read_trace(path) == Trace("a", (0.0,), (7e6,), 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "\ufefftime_s,downlink_mbps\n0,1\n2,3\n",
        "time_s, downlink_mbps\n0, 1\n2, 3\n",
        "\ufeff time_s ,downlink_mbps \r\n 0 , 1 \r\n 2 , 3 \r\n",
        '"time_s","downlink_mbps"\n"0","1"\n"2","3"\n',
    ],
)
def test_traces_are_read_as_spreadsheets_and_people_write_them(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert read_trace(path) == Trace("a", (0.0, 2.0), (1e6, 3e6), 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,mbps\n0,1\n", "lacks 'downlink_mbps'"),
        ("", "lacks 'time_s'"),
        ("time_s,downlink_mbps\n", "has no rows"),
        ("time_s,downlink_mbps\n0,1\n1,fast\n", "line 3: downlink_mbps='fast' is not a finite"),
        ("time_s,downlink_mbps\n0,1\n1,nan\n", "line 3: downlink_mbps='nan' is not a finite"),
        ("time_s,downlink_mbps\n0,1\n1\n", "line 3: downlink_mbps=None is not a finite"),
        ("time_s,downlink_mbps\n0,1\x00\n", "bad.csv"),
        ('time_s,downlink_mbps\n0,"' + 200_000 * "1", "is no CSV file: field larger"),
        ("time_s,downlink_mbps\n0,-1\n", "line 2: downlink_mbps=-1.0 is negative"),
        ("time_s,downlink_mbps\n0,1\n2,1\n1,1\n", "line 4: time_s=1.0 comes after 2.0"),
    ],
)
def test_a_bad_trace_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)


def test_a_trace_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="2 times and 1 rates"):
        Trace("t", (0, 1), (1,), 2)
    with pytest.raises(ValueError, match=r"interval 1 goes from 1 s to 1 s"):
        Trace("t", (0, 1), (1, 1), 1)
    with pytest.raises(ValueError, match=r"starts at 1 s; wanted 0"):
        Trace("t", (1,), (1,), 2)
    with pytest.raises(ValueError, match=r"rate 0 is -1"):
        Trace("t", (0,), (-1,), 2)


def test_finding_traces(tmp_path, monkeypatch):
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).touch()
    names = ["a.csv", "b.csv"]
    assert [path.name for path in find_traces(str(tmp_path))] == names
    assert [path.name for path in find_traces(str(tmp_path / "*.csv"))] == names
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in find_traces("a*.csv")] == ["a.csv"]
    (tmp_path / "[1].csv").touch()
    assert find_traces(str(tmp_path / "[1].csv")) == [tmp_path / "[1].csv"]
    with pytest.raises(FileNotFoundError, match=r"no traces at 'x/\*.csv'"):
        find_traces("x/*.csv")


def test_measured_traces_can_be_read():
    folder = os.environ.get("ACCORDION_TRACES")
    if not folder:
        pytest.skip("ACCORDION_TRACES names no folder of measured traces")
    for path in find_traces(folder):
        link = Link(read_trace(path))
        assert 0.1e6 < link.mean_bps < 5e9
        assert np.isfinite(link.transfer_time(np.linspace(0, 1000, 50), 7_000_000)).all()


def body(size):
    return httpx.MockTransport(lambda request: httpx.Response(200, content=bytes(size)))


def get(transport, timeout=None):
    with httpx.Client(transport=transport, timeout=timeout) as client:
        return client.get("http://x/")


def test_virtual_time_passes_as_the_link_says():
    clock = VirtualClock(100.0)
    link = Link(make_trace((1, 0.8), (10, 0), (1, 8)))
    transport = ThrottledTransport(body(150_000), link, clock=clock, latency_s=0.25, start_s=0.5)
    response = get(transport)
    headers = sum(len(k) + len(v) + 4 for k, v in response.headers.raw)
    wanted = 0.25 + float(link.transfer_time(0.75, 150_000 + headers))
    assert clock.now() - 100 == pytest.approx(wanted, abs=1e-6)
    assert transport.body_bytes == 150_000


def test_an_outage_is_a_read_timeout_on_the_same_clock():
    clock = VirtualClock()
    transport = ThrottledTransport(body(150_000), Link(make_trace((1, 0.8), (60, 0))), clock=clock)
    with pytest.raises(httpx.ReadTimeout, match="carried nothing for 5 s"):
        get(transport, timeout=5)
    assert clock.now() == pytest.approx(1 + 5, abs=0.01)
    dead = ThrottledTransport(body(1), Link(make_trace((1, 0))), clock=clock)
    with pytest.raises(httpx.ReadTimeout):
        get(dead)


def test_real_time_passes_as_the_link_says():
    clock = RealClock()
    transport = ThrottledTransport(body(50_000), Link(constant(rate_bps=2e6)), clock=clock)
    start = clock.now()
    get(transport)
    # Not sooner; how much later is a matter of what else the machine does.
    assert 0.199 < clock.now() - start < 2
