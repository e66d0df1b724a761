"""A device with real servers: our endpoint, killed and restarted, and plain web servers."""

import shutil
import socket
import threading

import httpx
import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport, Retries
from accordion_jax.delivery.planner import Requirements
from tests.delivery.checks import SEGMENT, WHOLE, assert_sound, in_use, with_base
from tests.delivery.endpoints import running_endpoint, start_endpoint, stop
from tests.delivery.toys import make_parts
from tests.delivery.webserver import NGINX, nginx, plain_web_server


class Waiting(Retries):
    """Says when a connection was lost and the device waits to try again."""

    def __init__(self):
        super().__init__(attempts=100_000, first_wait_s=0.05, longest_wait_s=0.1)
        object.__setattr__(self, "began", threading.Event())

    def wait_s(self, failures):
        self.began.set()
        return super().wait_s(failures)


def test_the_endpoint_is_killed_and_restarted_in_the_middle(tmp_path):
    bundles = tmp_path / "bundles"
    # Of 4 MB each: what is on its way when the endpoint dies cannot be all of the rest.
    write_bundle(bundles, **make_parts(blocks=5, width=1024))
    endpoint, url = start_endpoint(bundles)

    def kill_after_the_first(event):
        if event.kind == "segment" and endpoint.poll() is None and in_use(device) == "toy-1":
            stop(endpoint)

    small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)]
    retries = Waiting()
    try:
        with httpx.Client(transport=httpx.HTTPTransport(socket_options=small)) as client:
            transport = HttpTransport(url, client=client, timeout_s=60, retries=retries)
            device = Device(transport, SegmentCache(tmp_path / "cache"))
            device.connect()
            device.fetch(max_bytes=device.manifest.segments[0].size_bytes)
            device.add_listener(kill_after_the_first)
            worker = threading.Thread(target=device.upgrade)
            worker.start()
            assert retries.began.wait(120)
            while_dead = in_use(device)
            assert while_dead in ("toy-1", "toy-2", "toy-3", "toy-4")
            assert worker.is_alive()
            endpoint, _ = start_endpoint(bundles, port=httpx.URL(url).port)
            worker.join(120)
            assert not worker.is_alive()
            assert in_use(device) == "toy-5"
            assert device.outcome().problems == ()
            assert_sound(device)
            device.close()
    finally:
        stop(endpoint)


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
        for ask in (None, Requirements(max_error=0.3)):
            transport = HttpTransport(url)
            cache = SegmentCache(tmp_path / f"cache{len(found)}")
            device = Device(transport, cache)
            device.connect(ask=ask)
            found.append([device.fetch(max_error=0.3), device.fetch(max_bytes=2 * SEGMENT)])
            assert transport.other_bytes > 0
            # The manifest is not sent again.
            before = transport.other_bytes
            again = Device(transport, SegmentCache(cache.folder))
            again.connect()
            assert transport.other_bytes < before + 100
            assert in_use(again) == in_use(device)
            device.close()
            transport.close()
        for one, other in zip(*found, strict=True):
            assert one.configuration == other.configuration
            assert one.transferred_bytes == other.transferred_bytes
            assert one.problems == other.problems == ()
