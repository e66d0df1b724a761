"""Many devices at once, some of them hostile: the others are served, and the health first."""

import asyncio
import contextlib
import socket
import sys
import threading
import time
import urllib.parse

import pytest
import uvicorn

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint import admission, connections
from accordion_jax.delivery.endpoint.admission import Admission
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.server import configuration
from accordion_jax.delivery.endpoint.store import BundleStore
from benchmarks.delivery.crowd import HOSTILE, crowd, rss_bytes, stalled_readers, watching
from benchmarks.delivery.setting import endpoint_process
from tests.delivery.checks import wait_until
from tests.delivery.live import request, stream_url
from tests.delivery.toys import make_parts


def test_each_device_gets_the_right_bytes_and_the_health_is_answered(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=3, width=300))
    manifest = read_manifest(bundle)
    stream = stream_url(manifest, manifest.segments)
    with endpoint_process(tmp_path) as (address, pid), watching(address, pid) as seen:
        done = asyncio.run(
            crowd(
                *(address, bundle.name, stream),
                devices=20,
                rounds=2,
                hostile=2 * len(HOSTILE),
            )
        )
        assert done == {"right": 40}
        during = seen()
        assert during.waits_s
        assert max(during.waits_s) < 60
        assert 0 < max(during.rss_bytes) < 400e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_stalled_readers_hold_little_memory(tmp_path):
    """A thousand of them hold five times as much, and leave most of it when they go."""
    bundle = write_bundle(tmp_path, **make_parts(blocks=3, width=1200))  # 23 MB
    manifest = read_manifest(bundle)
    stream = stream_url(manifest, manifest.segments)
    with endpoint_process(tmp_path) as (address, pid):
        request(f"http://{address[0]}:{address[1]}", "/v1/models")
        before, most = rss_bytes(pid), 0

        async def stall():
            nonlocal most
            readers = asyncio.create_task(stalled_readers(address, stream, 200, 15))
            while not readers.done():
                await asyncio.sleep(0.2)
                most = max(most, rss_bytes(pid))
            await readers

        asyncio.run(stall())
        assert 0 < most - before < 35e6
        wait_until(lambda: rss_bytes(pid) - before < 15e6)
        assert request(f"http://{address[0]}:{address[1]}", "/healthz")[0].status == 200


@pytest.fixture
def bounded(tmp_path):
    """Serves a bundle with connections of a class; gives (URL, path of a large stream)."""
    bundle = write_bundle(tmp_path, **make_parts(blocks=3, width=2000))
    manifest = read_manifest(bundle)

    @contextlib.contextmanager
    def serve(most=None):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            app = make_app(BundleStore(str(tmp_path)))
            server = uvicorn.Server(configuration(app, most=most))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                wait_until(lambda: server.started)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                yield url, stream_url(manifest, manifest.segments)
            finally:
                server.should_exit = server.force_exit = True
                thread.join(60)

    return serve


def connected(url, sent=b""):
    address = urllib.parse.urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(sent)
    return connection


def is_closed(connection):
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"GET / HTTP/1.1\r\nX: 1\r\n"])
def test_a_connection_that_asks_for_nothing_is_closed(bounded, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.05)
    with bounded() as (url, _), connected(url, sent) as connection:
        wait_until(lambda: is_closed(connection))
        assert request(url, "/healthz")[0].status == 200


def test_one_that_asks_again_and_again_is_kept(bounded, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.05)
    with bounded() as (url, _), connected(url) as connection:
        asked = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            connection.sendall(asked)
            answer = b""
            while not answer.endswith(b"]}"):
                data = connection.recv(1 << 16)
                assert data
                answer += data
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.05)


def test_a_reader_that_takes_nothing_is_given_up(bounded, monkeypatch):
    monkeypatch.setattr(connections, "STALL_S", 0.3)
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.05)

    def in_flight(url):
        text = request(url, "/metrics")[1].decode()
        (line,) = (each for each in text.splitlines() if "in_flight" in each and each[0] != "#")
        return float(line.split()[-1])

    with bounded() as (url, stream):
        with connected(url, f"GET {stream} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as connection:
            assert connection.recv(10)
            wait_until(lambda: in_flight(url) == 0)
        # One that takes a little now and then is not.
        with connected(url, f"GET {stream} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as connection:
            got = 0
            while data := connection.recv(1 << 20):
                got += len(data)
                time.sleep(0.01)
            assert got > 40e6


def test_beyond_the_most_those_that_wait_longest_go_and_the_health_is_answered(
    bounded, monkeypatch
):
    monkeypatch.setattr(connections, "HEAD_S", 1e6)
    with bounded(most=5) as (url, _), contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(url, b"GET /")) for _ in range(12)]
        wait_until(lambda: sum(map(is_closed, idle)) >= 7)
        assert request(url, "/healthz")[0].status == 200
        assert is_closed(idle[0])
        assert not is_closed(idle[-1])


class Slow:
    """An application that begins to answer when it is told to."""

    def __init__(self):
        self.begun, self.go_on = [], asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.begun.append(scope["path"])
        if scope["path"] == "/body":
            await receive()
        if scope["path"] != "/healthz":
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await asyncio.sleep(3600)
        await send({"type": "http.response.body", "body": b""})


def test_a_few_are_at_work_and_the_health_waits_for_none(monkeypatch):
    monkeypatch.setattr(admission, "_AT_WORK", 2)

    async def main():
        slow, body = Slow(), asyncio.Event()
        admitted, answered = Admission(slow, 100), []

        async def receive():
            await body.wait()
            return {"type": "http.request", "body": b""}

        def ask(path):
            async def send(message):
                answered.append(path)

            scope = {"type": "http", "path": path}
            return asyncio.create_task(admitted(scope, receive, send))

        async def settled():
            for _ in range(20):
                await asyncio.sleep(0)

        tasks = [ask("/body"), ask("/stream"), *(ask(f"/{number}") for number in range(4))]
        await settled()
        # A body that is waited for is no work; of the rest, two are at work.
        assert slow.begun == ["/body", "/stream", "/0"]
        await ask("/healthz")
        assert answered == ["/healthz"] * 2
        slow.go_on.set()
        await settled()
        # An answer that is on its way is no work either; the others had their turn in order.
        assert slow.begun[-3:] == ["/1", "/2", "/3"]
        assert answered.count("/3") == 2
        body.set()
        await settled()
        assert answered.count("/body") == 2
        assert not tasks[1].done()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
