"""What the benchmarks of delivery share: our endpoint, and a client that costs little."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

# One core for the server and one for the client, where there are two.
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

Address = tuple[str, int]


@contextlib.contextmanager
def endpoint(bundles: pathlib.Path) -> Iterator[Address]:
    """Runs ``python -m accordion_jax.serve`` on one core; raises RuntimeError if it won't start."""
    with endpoint_process(bundles) as (address, _):
        yield address


@contextlib.contextmanager
def endpoint_process(bundles: pathlib.Path) -> Iterator[tuple[Address, int]]:
    """As `endpoint`; yields the number of its process too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "accordion_jax.serve", f"--bundles={bundles}", "--port=0"],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pin(process.pid, 0)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://(.+):(\d+)/$", line.strip())
        if not found:
            raise RuntimeError(f"the endpoint did not start: {line!r}")
        yield (found.group(1), int(found.group(2))), process.pid
    finally:
        process.terminate()
        process.communicate()


def pin(process: int, core: int) -> None:
    """Keeps a process (0: this one) on one core, where the system can do that."""
    if len(_CORES) > 1:
        os.sched_setaffinity(process, {_CORES[core]})


class Connection:
    """A kept-alive HTTP/1.1 connection that costs its client little."""

    def __init__(self, address: Address):
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def exchange(self, request: bytes) -> int:
        """Sends a request and reads the answer; returns the bytes of its body."""
        self._socket.sendall(request)
        view = memoryview(self._buffer)
        filled = 0
        while (end := self._buffer.find(b"\r\n\r\n", 0, filled)) < 0:
            filled += self._receive(view[filled:])
        head = bytes(view[:end])
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            raise RuntimeError(f"{request[:80]!r} got {head[:200]!r}")
        left = int(length[1]) - (filled - end - 4)
        while left > 0:
            left -= self._receive(view[: min(left, len(view))])
        return int(length[1])

    def _receive(self, into: memoryview) -> int:
        if (received := self._socket.recv_into(into)) == 0:
            raise RuntimeError("the server closed the connection before its answer had ended")
        return received


def get(path: str) -> bytes:
    """Returns a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()


def post(path: str, body: str) -> bytes:
    """Returns a POST request of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
