"""The endpoint's process: its event loop, its sockets, its threads, and its memory."""

import asyncio
import gc
import socket
import threading

import anyio.to_thread
import pytest
import uvicorn

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint import memory, server
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.memory import given_back
from accordion_jax.delivery.endpoint.store import BundleStore
from tests.delivery.toys import make_parts


def test_it_runs_on_the_loop_that_takes_all_new_connections_at_once(tmp_path, monkeypatch):
    """Where uvloop is installed, uvicorn would choose it, and it takes one a round."""
    ran_on = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: ran_on.append(self.config.get_loop_factory()())
    )
    app = make_app(BundleStore(str(tmp_path)))
    server.serve(app, host="127.0.0.1", port=0, grace_s=1, on_listening=lambda url: None)
    (loop,) = ran_on
    loop.close()
    assert isinstance(loop, asyncio.BaseEventLoop)  # uvloop's is not


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sockets inherit it on Unix")
def test_no_small_answer_waits_for_its_head_to_be_taken():
    with (
        server._listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(("scheme", "few"), [("", True), ("memory:/", False)])
def test_local_files_are_read_by_few_threads(tmp_path, scheme, few):
    app = make_app(BundleStore(f"{scheme}{tmp_path}"))

    async def threads():
        async with app.router.lifespan_context(app):
            return anyio.to_thread.current_default_thread_limiter().total_tokens

    assert (asyncio.run(threads()) < 16) == few


class Looks:
    """An event that is set after as many looks as there are numbers of connections."""

    def __init__(self, connections):
        self.connections, self.trimmed_at = connections, []
        self.at = -1

    def wait(self, _seconds):
        self.at += 1
        return self.at == len(self.connections)

    def now(self):
        return self.connections[self.at]

    def trim(self, _pad):
        self.trimmed_at.append(self.at)


@pytest.mark.parametrize(
    ("connections", "trimmed_at"),
    [
        ([0, 3, 64], [0, 1, 2]),  # a crowd may have come and gone
        ([1000, 1000, 900, 501], []),  # it is there
        ([1000, 500, 500, 250, 249], [1, 3]),  # half of it has gone, and half of that
        ([1000, 0, 400, 300, 400], [1]),
    ],
)
def test_memory_is_given_back_when_a_crowd_has_gone(connections, trimmed_at):
    looks = Looks(connections)
    memory._now_and_then(looks, looks.now, looks.trim)
    assert looks.trimmed_at == trimmed_at


def test_what_was_there_before_is_not_looked_through_again(monkeypatch):
    monkeypatch.setattr(memory, "_LOOK_EVERY_S", 0.01)
    looked = threading.Event()

    def connections():
        looked.set()
        return 0

    assert gc.get_freeze_count() == 0
    with given_back(connections):
        assert gc.get_freeze_count() > 1000
        assert looked.wait(60)
    assert gc.get_freeze_count() == 0


def test_a_chunk_that_waits_is_there_once(tmp_path):
    tracemalloc = pytest.importorskip("tracemalloc")
    bundle = write_bundle(tmp_path, **make_parts(blocks=9, width=300))
    store = BundleStore(str(tmp_path))
    model = store.model(bundle.name)
    digests = list(model.manifest.by_sha256)
    size = sum(segment.size_bytes for segment in model.manifest.by_sha256.values())
    chunk = size // 2  # of several segments
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        chunks = store.read(model, digests, 0, size, chunk_bytes=lambda: chunk)
        first = next(chunks)
        held, _ = tracemalloc.get_traced_memory()
        assert len(first) == chunk
        assert held - before < 1.3 * chunk
        chunks.close()
    finally:
        tracemalloc.stop()
