"""Serves bundles to devices: the network endpoint.

  python -m accordion_jax.serve --bundles=DIR_OR_URL [--host=ADDRESS] [--port=N]

New bundles are picked up within a second. SIGTERM or Ctrl-C lets transfers end before it stops.
"""

import logging
import os
import socket

import uvicorn
from absl import app, flags

from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import StorageError

_BUNDLES = flags.DEFINE_string(
    "bundles", None, "Folder of bundles, or a URL that fsspec reads.", required=True
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is every one.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0 takes a free one.", 0, 65535)
_GRACE_S = flags.DEFINE_integer("grace_s", 30, "Seconds that transfers have to end on SIGTERM.", 0)


def main(argv: list[str]) -> None:
    """Checks the bundles, says where it listens, and serves until it is stopped."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        store = BundleStore(_BUNDLES.value)
        models = store.models()
    except StorageError as error:
        raise app.UsageError(
            f"{error}; give --bundles a folder that accordion_jax.bundle wrote to"
        ) from error
    config = uvicorn.Config(
        make_app(store),
        log_level="warning",
        access_log=False,
        server_header=False,
        # A little slower than httptools, but it bounds the size of a request's head (64 KB).
        http="h11",
        timeout_graceful_shutdown=_GRACE_S.value,
    )
    with _listen(_HOST.value, _PORT.value) as listener:
        # The socket is listening: whoever reads this line can connect.
        host, port = listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        print(f"{len(models)} model(s) of {_BUNDLES.value} on http://{address}:{port}/", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048, reuse_port=False)
    except OSError as error:
        raise app.UsageError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; choose another "
            "--port or --host"
        ) from error


if __name__ == "__main__":
    app.run(main)
