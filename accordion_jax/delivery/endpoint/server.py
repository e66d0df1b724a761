"""The endpoint as a process: listens on an address, and serves until it is told to stop."""

import ctypes
import gc
import os
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

from accordion_jax.delivery.endpoint.connections import Connection
from accordion_jax.delivery.errors import DeliveryError

_MOST_FILES = 65536
_GIVE_BACK_EVERY_S = 15.0


def serve(
    app: ASGIApp, *, host: str, port: int, grace_s: int, on_listening: Callable[[str], None]
) -> None:
    """Serves an application over HTTP until SIGTERM or SIGINT.

    Args:
      app: made by `make_app`.
      host: address to listen on; ``0.0.0.0`` is every one.
      port: 0 takes a free one.
      grace_s: that transfers have to end after the signal.
      on_listening: is called with the URL as soon as whoever reads it can connect.

    Raises:
      DeliveryError: nothing can listen there; names the address.
    """
    files = _raise_limit_of_files()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # h11 is a little slower than httptools, but bounds the size of a request's head (64 KB). A
        # connection takes a file, and so may the answer on it.
        http=type("BoundedConnection", (Connection,), {"most": max(files // 2 - 64, 16)}),
        timeout_graceful_shutdown=grace_s,
    )
    with _listen(host, port) as listener:
        host, port = listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        on_listening(f"http://{address}:{port}/")
        server = uvicorn.Server(config)
        ended = threading.Event()
        threading.Thread(target=_give_back_memory, args=(ended,), daemon=True).start()
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()


def _give_back_memory(ended: threading.Event) -> None:
    """Gives memory back to the system after a crowd has gone: the C library would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    # Always: a crowd may come and go between two looks. It takes some hundredths of a second.
    while not ended.wait(_GIVE_BACK_EVERY_S):
        gc.collect()
        if trim is not None:
            trim(0)


def _raise_limit_of_files() -> int:
    """Returns how many files this process may open, after asking for as many as it can have."""
    if resource is None:
        return 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048, reuse_port=False)
    except OSError as error:
        # Errors of names have numbers of their own, which os.strerror does not know.
        of_name = isinstance(error, socket.gaierror)
        why = error.strerror if of_name else os.strerror(error.errno or 0)
        raise DeliveryError(
            f"cannot listen on {host}:{port}: {why}; choose another port or host"
        ) from error
