"""The endpoint as a process: listens on an address, and serves until it is told to stop."""

import logging
import os
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

from accordion_jax.delivery.endpoint.connections import Connection
from accordion_jax.delivery.endpoint.memory import given_back
from accordion_jax.delivery.errors import DeliveryError

_MOST_FILES = 65536
_BACKLOG = 2048
# Of a request's head. h11 itself gives up at 16 KB, unless the head is there in one piece.
_HEAD_BYTES = 65536


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
    # A connection takes a file, and so may the answer on it.
    most = max(_raise_limit_of_files() // 2 - 64, 16)
    config = configuration(app, most=most, log_level="warning", grace_s=grace_s)
    # Whoever sends garbage again and again would fill the disk with lines about it.
    logging.getLogger("uvicorn.error").addFilter(_is_no_fault_of_a_peer)
    with _listen(host, port) as listener:
        host, port = listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        on_listening(f"http://{address}:{port}/")
        server = uvicorn.Server(config)
        with given_back(lambda: len(server.server_state.connections)):
            server.run(sockets=[listener])


def configuration(
    app: ASGIApp,
    *,
    most: int | None = None,
    log_level: str = "critical",
    grace_s: int | None = None,
) -> uvicorn.Config:
    """Returns how uvicorn serves an application here.

    Args:
      app: made by `make_app`.
      most: connections at once; None is no limit.
      log_level: of uvicorn's own messages.
      grace_s: that transfers have to end after a signal; None is as long as they take.
    """
    return uvicorn.Config(
        app,
        # Not uvloop where it happens to be there: it takes one new connection in a round of the
        # loop, so that whoever asks for the health waits for a thousand rounds behind a crowd.
        loop="asyncio",
        ws="none",
        log_level=log_level,
        access_log=False,
        server_header=False,
        # h11 is a little slower than httptools, but bounds the size of a request's head.
        http=type("BoundedConnection", (Connection,), {"most": most}),
        h11_max_incomplete_event_size=_HEAD_BYTES,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=grace_s,
    )


def _is_no_fault_of_a_peer(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING or record.module != "h11_impl"


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
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Each connection inherits it. asyncio sets it only on sockets that were made for TCP by
        # its number, and else the body of each small answer waits 40 ms behind its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        # Errors of names have numbers of their own, which os.strerror does not know.
        of_name = isinstance(error, socket.gaierror)
        why = error.strerror if of_name else os.strerror(error.errno or 0)
        raise DeliveryError(
            f"cannot listen on {host}:{port}: {why}; choose another port or host"
        ) from error
