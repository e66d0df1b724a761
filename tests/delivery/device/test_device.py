"""The device in virtual time: what it asks for, when it stops, how it adapts."""

import tracemalloc

import httpx
import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.throughput import ThroughputMeter
from accordion_jax.delivery.errors import CacheLimitError, DeliveryError
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.traces import Trace
from accordion_jax.delivery.planner import Requirements, plan
from tests.delivery.servers import InProcess, Served
from tests.delivery.toys import make_parts

SEGMENT = 16792  # wire bytes of each segment of the toy bundle: 134 kbit


def in_use(device):
    return device.in_use.name if device.in_use else None


def test_segments_arrive_in_sending_order_and_each_is_of_use_at_once(toy_bundle, make_virtual):
    used = []
    device, _ = make_virtual(toy_bundle, 1.0)
    device.add_listener(lambda event: used.append(in_use(device)) if event.kind == "use" else None)
    device.connect()
    outcome = device.upgrade()
    assert used[-6:] == [f"toy-{depth}" for depth in range(6)]
    assert outcome.configuration == "toy-5"
    assert outcome.transferred_bytes == 6 * SEGMENT
    assert outcome.cached_bytes == 0
    assert outcome.expected_error == device.manifest.table.full.top1_error
    assert outcome.throughput_bps == pytest.approx(1e6, rel=0.01)
    assert outcome.seconds == pytest.approx(6 * SEGMENT * 8 / 1e6, rel=0.01)
    assert outcome.problems == ()


def test_an_upgrade_transfers_exactly_what_is_missing(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    device.connect()
    first = device.fetch(max_bytes=2 * SEGMENT + 100)
    assert (first.configuration, first.transferred_bytes) == ("toy-1", 2 * SEGMENT)
    second = device.upgrade("toy-3")
    assert (second.configuration, second.transferred_bytes) == ("toy-3", 2 * SEGMENT)
    assert second.cached_bytes == 2 * SEGMENT
    assert device.upgrade("toy-2").transferred_bytes == 0
    assert device.upgrade().transferred_bytes == 2 * SEGMENT
    assert device.upgrade().transferred_bytes == 0
    with pytest.raises(KeyError, match="no configuration 'toy-9' in the table; it has toy-0"):
        device.upgrade("toy-9")


def test_a_restarted_device_has_what_it_had_even_with_no_network(toy_bundle, make_virtual):
    served = Served(toy_bundle)
    device, _ = make_virtual(served, 1.0)
    device.connect()
    device.fetch(max_bytes=2 * SEGMENT)
    requests = len(served.requests)
    # A later process: the endpoint has nothing for it now.
    served.content = lambda target: None
    later, _ = make_virtual(served, 1.0)
    manifest = later.connect()
    assert in_use(later) == "toy-1"
    assert "going on with the manifest kept from the last time" in later.outcome().problems[0]
    del served.content
    # By its id, which names it for ever, no request is needed.
    third, _ = make_virtual(served, 1.0)
    third.connect(manifest.model_id)
    assert len(served.requests) == requests + 1
    assert later.upgrade().configuration == "toy-5"
    assert third.upgrade().transferred_bytes == 0


def test_at_the_deadline_it_runs_what_it_has(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    device.connect()
    start = device.clock.now()
    # No throughput is promised: any plan is worth trying, until there is one to measure.
    outcome = device.fetch(deadline_s=0.3)
    assert device.clock.now() - start <= 0.3 + 0.01
    assert outcome.configuration == "toy-1"
    # Nothing that arrived is lost.
    part = outcome.transferred_bytes - 2 * SEGMENT
    assert 0 <= part < SEGMENT
    assert device.upgrade().transferred_bytes == 4 * SEGMENT - part


def test_the_base_is_fetched_though_the_plan_says_it_is_late(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    device.connect()
    outcome = device.fetch(deadline_s=0.1, throughput_bps=1e6)
    assert outcome.configuration is None
    assert outcome.unmet == ("deadline_s",)
    assert 0.08 * 1e6 / 8 < outcome.transferred_bytes < SEGMENT
    # What came of it counts for the next deadline, in the plan too.
    assert device.fetch(deadline_s=0.1, throughput_bps=1e6).configuration == "toy-0"


def test_the_target_grows_on_a_link_that_is_better_than_promised(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 2.0)
    device.connect()
    # 1 Mbit/s for 0.4 s would be 2 segments (0.27 s); 2 Mbit/s makes it 5 (0.34 s for 5).
    assert device.fetch(deadline_s=0.4, throughput_bps=1e6).configuration == "toy-4"


def test_the_target_shrinks_on_a_link_that_is_worse_than_promised(toy_bundle, make_virtual):
    device, throttled = make_virtual(toy_bundle, 0.1)
    device.connect()
    before = throttled.body_bytes
    outcome = device.fetch(deadline_s=3.5, throughput_bps=1e9)
    # 1.34 s a segment: the third cannot arrive in time, so it is not begun.
    assert outcome.configuration == "toy-1"
    assert outcome.seconds < 2.8
    assert throttled.body_bytes - before < 2 * SEGMENT + 1024


def test_max_error_stops_at_the_smallest_that_reaches_it(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    device.connect()
    outcome = device.fetch(max_error=0.3)
    assert (outcome.configuration, outcome.unmet) == ("toy-2", ())
    outcome = device.fetch(max_error=0.001)
    assert (outcome.configuration, outcome.unmet) == ("toy-5", ("max_error",))
    assert f"toy-5, has an error of {outcome.expected_error:.6g}" in outcome.reasons[0]


def test_with_a_confidence_it_stops_where_the_bound_reaches_it(
    toy_bundle, toy_manifest, make_virtual
):
    bounds = toy_manifest.table.upper_bounds(0.95)
    errors = [row.top1_error for row in toy_manifest.table.rows]
    max_error = (errors[2] + bounds[2]) / 2
    device, _ = make_virtual(toy_bundle, 10)
    device.connect()
    assert device.fetch(max_error=max_error).configuration == "toy-2"
    assert device.fetch(max_error=max_error, confidence=0.95).configuration == "toy-3"
    with pytest.raises(ValueError, match="confidence=95"):
        device.fetch(confidence=95)


def test_max_bytes_bounds_what_is_received(toy_bundle, make_virtual):
    device, throttled = make_virtual(toy_bundle, 1.0)
    device.connect()
    before = throttled.body_bytes
    for budget in (SEGMENT - 1, SEGMENT, 2 * SEGMENT + 5000, 10**9):
        held = device.holding.held
        wanted = plan(device.manifest, Requirements(max_bytes=budget), held)
        outcome = device.fetch(max_bytes=budget)
        assert outcome.transferred_bytes == wanted.transfer_bytes <= budget
        assert outcome.configuration == wanted.configuration
    assert throttled.body_bytes - before == 6 * SEGMENT


def test_max_macs_bounds_what_is_fetched_and_what_is_used(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    device.connect()
    macs = [row.macs for row in device.manifest.table.rows]
    assert device.fetch(max_macs=macs[3]).configuration == "toy-3"
    outcome = device.fetch(max_macs=macs[1])
    assert (outcome.configuration, outcome.transferred_bytes) == ("toy-1", 0)
    # It stays so, whatever is fetched, until it is taken back.
    assert (device.fetch().configuration, device.holding.complete[0].name) == ("toy-1", "toy-5")
    device.step_up()
    assert in_use(device) == "toy-5"


def test_stepping_down_and_up_needs_no_network(toy_bundle, make_virtual):
    served = Served(toy_bundle)
    device, _ = make_virtual(served, 1.0)
    device.connect()
    with pytest.raises(ValueError, match=r"toy-0, keeps 0 blocks, .* and is not complete yet"):
        device.step_down(depth=0)
    device.upgrade("toy-4")
    requests = len(served.requests)
    assert device.step_down(depth=2).name == in_use(device) == "toy-2"
    assert device.step_down(max_macs=device.manifest.table.rows[1].macs).name == "toy-1"
    with pytest.raises(ValueError, match="max_macs=1: the smallest, toy-0,"):
        device.step_down(max_macs=1)
    assert in_use(device) == "toy-1"
    with pytest.raises(ValueError, match="give depth or max_macs"):
        device.step_down()
    device.step_up()
    assert in_use(device) == "toy-4"
    assert len(served.requests) == requests


def test_a_pause_of_the_link_only_costs_time(toy_bundle, make_virtual):
    outage = Link(Trace("outage", (0.0, 0.25, 30.0), (1e6, 0.0, 1e6), 1000.0))
    problems = []
    device, _ = make_virtual(toy_bundle, outage, timeout_s=10)
    device.add_listener(lambda event: problems.append(event) if event.kind == "problem" else None)
    device.connect()
    outcome = device.upgrade()
    assert outcome.configuration == "toy-5"
    assert 29.7 < outcome.seconds < 45
    # Each time-out loses what was on its way, and no more.
    assert outcome.transferred_bytes == 6 * SEGMENT
    assert problems == []


def test_a_link_that_stays_dead_is_given_up_and_the_device_goes_on(toy_bundle, make_virtual):
    dead = Link(Trace("dies", (0.0, 0.25), (1e6, 0.0), 1e6), loop=False)
    device, _ = make_virtual(toy_bundle, dead, timeout_s=10, attempts=3)
    device.connect()
    outcome = device.upgrade()
    assert outcome.configuration == "toy-0"
    assert outcome.seconds < 0.3 + 3 * 10 + 10
    assert "gave up after 3 attempts without a new byte" in outcome.problems[0]
    assert device.step_down(depth=0).name == "toy-0"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_costs_one_round_trip_and_single_segments_one_each(
    toy_bundle, make_virtual, stream
):
    served = Served(toy_bundle)
    device, _ = make_virtual(served, 100.0, latency_s=0.5)
    if not stream:
        device.transport.address = device.transport.address.under(
            f"{served.model.model_id}/manifest.json"
        )
    device.connect()
    assert device.transport.streams == stream
    outcome = device.upgrade()
    assert outcome.configuration == "toy-5"
    trips = 1 if stream else 6
    assert outcome.seconds == pytest.approx(trips * 0.5, abs=0.05)
    assert len(served.requests) == 1 + trips


def test_a_cache_that_is_too_small_is_an_error_before_a_byte_moves(toy_bundle, make_virtual):
    device, throttled = make_virtual(toy_bundle, 1.0)
    device.cache.limit_bytes = 3 * SEGMENT
    device.connect()
    before = throttled.body_bytes
    with pytest.raises(
        CacheLimitError, match=f"needs {6 * SEGMENT} bytes .* limit is {3 * SEGMENT}"
    ):
        device.upgrade()
    assert throttled.body_bytes == before
    assert device.fetch(max_bytes=3 * SEGMENT).configuration == "toy-2"
    with pytest.raises(CacheLimitError):
        device.upgrade()
    assert in_use(device) == "toy-2"
    assert device.cache.size_bytes() == 3 * SEGMENT


def test_a_damaged_file_is_found_at_the_start_and_fetched_again(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    manifest = device.connect()
    device.upgrade()
    device.close()
    path = device.cache.path(manifest.segments[2].sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    later, _ = make_virtual(toy_bundle, 1.0)
    later.connect()
    assert in_use(later) == "toy-1"
    outcome = later.upgrade()
    assert (outcome.configuration, outcome.transferred_bytes) == ("toy-5", SEGMENT)


def test_it_says_what_is_missing_before_it_is_connected(toy_bundle, make_virtual):
    device, _ = make_virtual(toy_bundle, 1.0)
    assert device.in_use is None
    with pytest.raises(DeliveryError, match=r"call connect\(\) first"):
        device.fetch()


class FromFiles(InProcess):
    """Answers like a server that streams from its disk, so that only the device's memory counts."""

    def handle_request(self, request):
        target = request.url.raw_path.decode()
        if "stream" not in target:
            return super().handle_request(request)

        class Stream(httpx.SyncByteStream):
            def __iter__(self):
                for sha256 in digests:
                    with (folder / f"{sha256}.bin").open("rb") as file:
                        yield from iter(lambda: file.read(4096), b"")

        digests, folder = target.partition("=")[2].split(","), self.served.bundle / "segments"
        return httpx.Response(200, stream=Stream())


def test_memory_is_bounded_whatever_the_size_of_the_model(tmp_path, make_virtual):
    bundle = write_bundle(tmp_path / "big", **make_parts(blocks=3, width=1000))
    device, throttled = make_virtual(bundle, 1000.0)
    throttled.inner = FromFiles(throttled.inner.served)
    manifest = device.connect()
    assert manifest.size_bytes > 16e6
    tracemalloc.start()
    try:
        device.upgrade()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert in_use(device) == "toy-3"
    assert peak < 1e6


def test_the_meter_weighs_by_time_so_an_outage_counts():
    meter = ThroughputMeter(window_s=2.0)
    assert meter.bps(0.0) is None
    meter.begin(10.0)
    for tenth in range(1, 11):
        meter.add(10 + tenth / 10, 12500)
    assert meter.bps(11.0) == pytest.approx(1e6)
    assert meter.bps(12.0) == pytest.approx(0.5e6)
    for tenth in range(1, 31):
        meter.add(12 + tenth / 10, 25000)
    # The window has moved on from the slow times.
    assert meter.bps(15.0) == pytest.approx(2e6, rel=0.05)
    meter.end(15.0)
    assert meter.bps(99.0) == pytest.approx(2e6, rel=0.05)
    meter.begin(100.0)
    assert meter.bps(100.01) == pytest.approx(2e6, rel=0.05)
    meter.add(100.1, 1250)
    assert meter.bps(100.1) == pytest.approx(1e5)
    meter.end(100.1)
    # A short transfer is better than none; one that brought nothing says nothing.
    meter.begin(200.0)
    meter.add(200.02, 25000)
    assert meter.bps(200.02) == pytest.approx(1e5)
    meter.end(200.02)
    assert meter.bps(201.0) == pytest.approx(1e7)
    meter.begin(300.0)
    meter.end(330.0)
    assert meter.bps(331.0) == pytest.approx(1e7)
