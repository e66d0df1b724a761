"""Cuts a trained run into a bundle that can be delivered piece by piece.

  python -m accordion_jax.bundle --workdir=RUN --out=DIR [--follows=MODEL_ID]

writes ``DIR/<model_id>/`` (see docs/bundle_format.md), and prints its id and sizes.
"""

import contextlib
from collections.abc import Sequence

from absl import app, flags

from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.reading import summary
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.depth import LookupTable
from accordion_jax.system import command
from accordion_jax.training import CheckpointError, Run, load_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished training run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of bundles to write into.", required=True)
_FOLLOWS = flags.DEFINE_string("follows", None, "model_id of the version that this replaces.")


def main(argv: Sequence[str]) -> None:
    """Reads the run, writes the bundle, checks what was written, and prints a summary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    table = LookupTable.read(_WORKDIR.value)
    run = _measured_run(_WORKDIR.value, table)
    parts = bundle_parts(
        run.variables,
        base_names=tuple(run.model.base_names),
        block_names=tuple(run.model.block_names),
        description=run.description,
        ladder=run.ladder,
        table=table,
    )
    print(summary(write_bundle(_OUT.value, **parts, follows=_FOLLOWS.value)))


def _measured_run(workdir: str, table: LookupTable) -> Run:
    """The checkpoint that the look-up table was measured on."""
    wanted = table.provenance.get("step")
    runs = [load_run(workdir)]
    if runs[0].step != wanted:
        with contextlib.suppress(CheckpointError):  # where none was evaluated, none is the best
            runs.append(load_run(workdir, "best"))
    if runs[-1].step == wanted:
        return runs[-1]
    steps = [run.step for run in runs]
    raise ValueError(
        f"the look-up table of {workdir} was measured at step {wanted}; its checkpoints are of "
        f"steps {steps}: run accordion_jax.main on it again, which sweeps and writes a new table"
    )


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError, CheckpointError), argv=argv)


if __name__ == "__main__":
    run()
