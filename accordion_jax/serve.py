"""Serves bundles to devices: the network endpoint.

  python -m accordion_jax.serve --bundles=DIR_OR_URL [--host=ADDRESS] [--port=N]

New bundles are picked up within a second. SIGTERM or Ctrl-C lets transfers end before it stops.
"""

from collections.abc import Sequence

from absl import app, flags

from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.plan_log import PlanLog
from accordion_jax.delivery.endpoint.server import serve
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.system import command
from accordion_jax.system.numbers import WholeNumber
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
_PLAN_LOG = flags.DEFINE_string(
    "plan_log",
    None,
    "File that gets a line for each plan: what was asked for, in two digits, and what was chosen; "
    "nothing that says who asked. accordion_jax.policy makes a policy of it. Default: no log.",
)
_PLAN_LOG_BYTES = flags.DEFINE(
    WholeNumber(1000), "plan_log_bytes", 10_000_000, "At which the log begins a new file."
)
_PLAN_LOG_FILES = flags.DEFINE_integer(
    "plan_log_files", 5, "Earlier files of the log to keep, as FILE.1, FILE.2 and so on.", 1
)


def main(argv: Sequence[str]) -> None:
    """Checks the bundles, says where it listens, and serves until it is stopped."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    command.show_log()
    bundles = without_secrets(_BUNDLES.value)
    store = BundleStore(_BUNDLES.value)
    models = len(store.models())
    plan_log = None
    if _PLAN_LOG.value:
        plan_log = PlanLog(
            _PLAN_LOG.value, max_bytes=_PLAN_LOG_BYTES.value, files=_PLAN_LOG_FILES.value
        )
    serve(
        make_app(store, plan_log=plan_log),
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
