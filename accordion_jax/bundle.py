"""Cuts a trained run into a bundle that can be delivered piece by piece.

  python -m accordion_jax.bundle --workdir=RUN --out=DIR [--follows=MODEL_ID]

writes ``DIR/<model_id>/`` (see docs/bundle_format.md), and prints its id and sizes.
"""

from collections.abc import Sequence

from absl import app, flags

from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.reading import summary
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.depth import LookupTable
from accordion_jax.system import command
from accordion_jax.training import CheckpointError, load_measured_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished training run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of bundles to write into.", required=True)
_FOLLOWS = flags.DEFINE_string("follows", None, "model_id of the version that this replaces.")


def main(argv: Sequence[str]) -> None:
    """Reads the run, writes the bundle, checks what was written, and prints a summary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    table = LookupTable.read(_WORKDIR.value)
    run = load_measured_run(_WORKDIR.value, table)
    parts = bundle_parts(
        run.variables,
        base_names=tuple(run.model.base_names),
        block_names=tuple(run.model.block_names),
        description=run.description,
        ladder=run.ladder,
        table=table,
    )
    print(summary(write_bundle(_OUT.value, **parts, follows=_FOLLOWS.value)))


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError, CheckpointError), argv=argv)


if __name__ == "__main__":
    run()
