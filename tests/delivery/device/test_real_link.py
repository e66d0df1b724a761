"""Bytes counted where they cannot lie: at the socket, and at an interface of a shaped link."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.planner import Requirements
from tests.delivery.counting import counting
from tests.delivery.endpoints import running_endpoint

SEGMENT = 16792


def test_the_upgrade_sends_exactly_the_missing_segments_over_the_socket(
    toy_bundle, tmp_path, make_device
):
    shutil.copytree(toy_bundle, tmp_path / "bundles" / toy_bundle.name)
    segments = read_manifest(toy_bundle).segments
    with running_endpoint(tmp_path / "bundles") as url, counting(url) as (url, count):
        device = make_device(url)
        device.connect()
        device.fetch(max_bytes=2 * SEGMENT)
        device.close()
        # Another process, later: nothing but the rest, in sending order, in one answer.
        before = count.connections
        later = make_device(url)
        later.connect(ask=Requirements())
        outcome = later.upgrade()
        assert count.connections == before + 1
        answer = bytes(count.answers[-1])
    missing = b"".join(segment_path(toy_bundle, s.sha256).read_bytes() for s in segments[2:])
    assert outcome.transferred_bytes == len(missing) == 4 * SEGMENT
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200")
    assert body.endswith(missing)
    # HTTP's own share, and what says which segments these are.
    assert len(answer) - len(missing) < 500


MBPS = 4


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def shaped():
    """(prefix of commands at the server, at the device) of two hosts joined by a slow link."""
    if sys.platform != "linux" or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("a shaped link needs Linux with ip and tc")
    server, device = f"acc{os.getpid()}s", f"acc{os.getpid()}d"
    try:
        try:
            run("ip", "netns", "add", server)
            run("ip", "netns", "add", device)
            link = ("ip", "link", "add", "eth0", "netns", server, "type", "veth")
            run(*link, "peer", "name", "eth0", "netns", device)
            for name, address in ((server, "10.99.0.1/24"), (device, "10.99.0.2/24")):
                run("ip", "-n", name, "address", "add", address, "dev", "eth0")
                run("ip", "-n", name, "link", "set", "eth0", "up")
            rate = ("rate", f"{MBPS}mbit", "burst", "4kb", "latency", "200ms")
            run("tc", "-n", server, "qdisc", "add", "dev", "eth0", "root", "tbf", *rate)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        yield ("ip", "netns", "exec", server), ("ip", "netns", "exec", device)
    finally:
        for name in (server, device):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def received_bytes(at_device):
    (link,) = json.loads(run(*at_device, "ip", "-json", "-statistics", "link", "show", "eth0"))
    return link["stats64"]["rx"]["bytes"]


def test_over_a_shaped_link_only_the_missing_bytes_pass_at_its_rate(toy_bundle, tmp_path, shaped):
    at_server, at_device = shaped
    shutil.copytree(toy_bundle, tmp_path / "bundles" / toy_bundle.name)

    def fetch(*flags):
        before, start = received_bytes(at_device), time.monotonic()
        cache = f"--cache={tmp_path / 'cache'}"
        out = run(*at_device, sys.executable, "-m", "accordion_jax.fetch", url, cache, *flags)
        return out, received_bytes(at_device) - before, time.monotonic() - start

    with running_endpoint(tmp_path / "bundles", prefix=at_server, host="10.99.0.1") as url:
        out, received, _ = fetch("--max_bytes=40000")
        assert "in use       toy-1" in out
        assert 2 * SEGMENT < received < 2 * SEGMENT * 1.08 + 4000
        out, received, seconds = fetch("--upgrade")
        assert f"transferred  {4 * SEGMENT:,} bytes of segments" in out
        # Ethernet, IP and TCP take under 8 %; the rest is the headers of two answers.
        assert 4 * SEGMENT < received < 4 * SEGMENT * 1.08 + 3000
        measured = float(out.partition(" Mbit/s")[0].rpartition(" ")[2])
        # A busy machine is slower than the link, none is faster.
        assert measured < 1.2 * MBPS
        assert seconds > 4 * SEGMENT * 8 / (MBPS * 1e6)
        out, received, _ = fetch("--step_down=2")
        assert "in use       toy-2" in out
        assert received < 500
