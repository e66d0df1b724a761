"""Bundles and devices for the tests of the device."""

import functools

import httpx
import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport, Retries
from accordion_jax.delivery.links.clock import VirtualClock
from accordion_jax.delivery.links.link import Link, ThrottledTransport
from accordion_jax.delivery.links.traces import constant
from tests.delivery.servers import InProcess, Served
from tests.delivery.toys import make_parts


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory):
    """The folder of a bundle of a base and five blocks, each of about 17 kB."""
    return write_bundle(tmp_path_factory.mktemp("bundles"), **make_parts(blocks=5, width=64))


@pytest.fixture(scope="session")
def toy_manifest(toy_bundle):
    return read_manifest(toy_bundle)


@pytest.fixture
def cache(tmp_path):
    cache = SegmentCache(tmp_path / "cache")
    yield cache
    cache.close()


@pytest.fixture
def make_device(tmp_path):
    """Makes a device that reads a URL over real sockets, quick to retry."""
    made = []

    def make(url, folder="cache", timeout_s=20.0, attempts=4, limit_bytes=None, **kwargs):
        client = httpx.Client(verify=_certificates())
        transport = HttpTransport(
            url, client=client, timeout_s=timeout_s, retries=Retries(attempts, first_wait_s=0.01)
        )
        device = Device(
            transport, SegmentCache(tmp_path / folder, limit_bytes=limit_bytes), **kwargs
        )
        made.append((device, client))
        return device

    yield make
    for device, client in made:
        device.close()
        client.close()


@functools.cache
def _certificates():
    """Those of any client, read once: that takes longer than most requests of a test."""
    return httpx.create_ssl_context()


@pytest.fixture
def make_virtual(tmp_path):
    """Makes (device, its throttled transport) in virtual time on a link, or on so many Mbit/s."""
    made = []

    def make(bundle, link, folder="virtual", latency_s=0.0, timeout_s=10.0, attempts=5, **kwargs):
        clock = VirtualClock()
        link = link if isinstance(link, Link) else Link(constant(rate_bps=1e6 * link))
        served = bundle if isinstance(bundle, Served) else Served(bundle)
        throttled = ThrottledTransport(InProcess(served), link, clock=clock, latency_s=latency_s)
        client = httpx.Client(transport=throttled)
        transport = HttpTransport(
            "http://toy",
            client=client,
            clock=clock,
            timeout_s=timeout_s,
            retries=Retries(attempts),
        )
        device = Device(transport, SegmentCache(tmp_path / folder), clock=clock, **kwargs)
        made.append((device, client))
        return device, throttled

    yield make
    for device, client in made:
        device.close()
        client.close()
