"""A device whose disk is full, or whose cache another process uses or left behind."""

import errno
import multiprocessing
import os
import pathlib

import httpx
import pytest

from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport, Retries
from accordion_jax.delivery.links.link import slowed
from tests.delivery.checks import SEGMENT, WHOLE, assert_sound, in_use, wait_until, with_base
from tests.delivery.servers import Fault, serving
from tests.disks import small_disk


def test_a_disk_that_is_really_full(toy_bundle, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    with small_disk(small, 2 * SEGMENT + 30_000) as resize, serving(toy_bundle) as (url, _):
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
        resize(1 << 20)
        assert device.upgrade().configuration == "toy-5"
        assert_sound(device)
        device.close()
        transport.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no room in"),
        (errno.EROFS, "Read-only file system"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_that_fails_from_the_first_byte(toy_bundle, make_device, monkeypatch, code, message):
    with serving(toy_bundle) as (url, _):
        device = with_base(make_device, url)

        def full(self, *args, **kwargs):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "open", full)
            outcome = device.upgrade()
        assert message in outcome.problems[0]
        assert in_use(device) == "toy-0"
        assert device.upgrade().configuration == "toy-5"


def upgrade_in_process(url, folder, rate_bps, results):
    client = httpx.Client(transport=slowed(httpx.HTTPTransport(), rate_bps=rate_bps))
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
            spawn.Process(target=upgrade_in_process, args=(url, tmp_path, 1e6, results))
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
    with serving(toy_bundle) as (url, served):
        # Two segments and a part of the third are all that it gets, however slow this test is.
        stall = Fault(stall_at=2 * SEGMENT + 3000, stall_s=600)
        served.faults = [stall]
        args = (url, tmp_path / "cache", None, spawn.Queue())
        process = spawn.Process(target=upgrade_in_process, args=args)
        process.start()
        segments = tmp_path / "cache" / "segments"
        wait_until(lambda: len(list(segments.glob("*.bin"))) == 2)
        process.kill()
        process.join()
        stall.go_on.set()
        before = sum(path.stat().st_size for path in segments.iterdir())
        device = make_device(url)
        device.connect()
        assert in_use(device) == "toy-1"
        assert device.upgrade().transferred_bytes == WHOLE - before
        assert_sound(device)
