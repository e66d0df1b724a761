"""The deadline covers everything from the request on, however slowly the answers come."""

import contextlib
import socket
import threading

import pytest

from accordion_jax.delivery.errors import ConnectionLostError
from tests.delivery.checks import in_use, with_base
from tests.delivery.servers import serving

SLOW = {
    "a byte now and then": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"{"),
    "a header now and then": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "endless early hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


@contextlib.contextmanager
def dripping(start, drop):
    """A server whose answers never end; gives (its URL, an event that ends them)."""
    stop = threading.Event()
    threads = []

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(start)
            while not stop.wait(0.05):
                connection.sendall(drop)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(listener.accept()[0],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", stop
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
    acceptor.join()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("kind", SLOW)
def test_a_manifest_that_drips_is_given_up_at_the_deadline(kind, make_device):
    # The time-out per byte alone would wait for ever: each byte comes soon after the one before.
    with dripping(*SLOW[kind]) as (url, stop):
        with pytest.raises(ConnectionLostError, match=r"no whole manifest|when time was over"):
            make_device(url).connect(deadline_s=0.5)
        assert not stop.is_set()


def test_then_what_is_kept_is_in_use(toy_bundle, make_device):
    with serving(toy_bundle) as (url, _):
        with_base(make_device, url).close()
    with dripping(*SLOW["endless early hints"]) as (url_of_now, stop):
        device = make_device(url)
        # The same model, whose server hangs today.
        device.transport.address = type(device.transport.address).parse(url_of_now)
        device.cache.use_manifest(url_of_now, toy_bundle.name)
        device.connect(deadline_s=0.5)
        assert in_use(device) == "toy-0"
        assert "going on with the manifest kept" in device.outcome().problems[0]
        assert device.fetch_by(0.5).configuration == "toy-0"
        assert not stop.is_set()
