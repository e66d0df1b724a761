"""Serves bundles to devices: the network endpoint.

  python -m accordion_jax.serve --bundles=DIR_OR_URL [--host=ADDRESS] [--port=N]

New bundles are picked up within a second. SIGTERM or Ctrl-C lets transfers end before it stops.
"""

from collections.abc import Sequence

from absl import app, flags

from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.server import serve
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.system import command
from accordion_jax.system.text import without_secrets

_BUNDLES = flags.DEFINE_string(
    "bundles",
    None,
    "Folder of bundles that accordion_jax.bundle wrote to, or a URL that fsspec reads.",
    required=True,
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is every one.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0 takes a free one.", 0, 65535)
_GRACE_S = flags.DEFINE_integer("grace_s", 30, "Seconds that transfers have to end on SIGTERM.", 0)


def main(argv: Sequence[str]) -> None:
    """Checks the bundles, says where it listens, and serves until it is stopped."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    command.show_log()
    bundles = without_secrets(_BUNDLES.value)
    store = BundleStore(_BUNDLES.value)
    models = len(store.models())
    serve(
        make_app(store),
        host=_HOST.value,
        port=_PORT.value,
        grace_s=_GRACE_S.value,
        on_listening=lambda url: print(f"{models} model(s) of {bundles} on {url}", flush=True),
    )


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError,), argv=argv)


if __name__ == "__main__":
    run()
