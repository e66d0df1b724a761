"""Cuts a trained run into a bundle that can be delivered piece by piece.

  python -m accordion_jax.bundle --workdir=RUN --out=DIR [--follows=MODEL_ID]

writes ``DIR/<model_id>/`` (see `accordion_jax.delivery.bundle`), and prints its id and sizes.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from accordion_jax.delivery.bundle import verify_bundle, write_bundle
from accordion_jax.depth import Ladder, LookupTable

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished training run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of bundles to write into.", required=True)
_FOLLOWS = flags.DEFINE_string("follows", None, "model_id of the version that this replaces.")

# Of the table's provenance, what stays with the table; all of it is the bundle's.
_OF_THE_TABLE = ("name", "scheme", "dataset", "split", "seed", "step", "precision")

# A tensor is of this collection if its name ends so; else of "params".
COLLECTIONS = {"batch_stats": ["mean", "var"]}


def bundle_parts(
    variables: Mapping[str, Any],
    *,
    base_names: tuple[str, ...],
    block_names: tuple[str, ...],
    description: Mapping[str, Any],
    ladder: Ladder,
    table: LookupTable,
) -> dict[str, Any]:
    """Returns the arguments of `write_bundle` for a network with the variables of `models`.

    The base is one segment, with tensors like ``stem/conv/kernel``; each block is one, with tensors
    like ``conv1/kernel``: its own name is the segment's.

    Args:
      variables: ``{"params": {unit: tree}, "batch_stats": {unit: tree}}``.
      base_names: units of the base.
      block_names: units of the blocks, in the order of the forward pass.
      description: family, arguments, input and classes, for the manifest.
      ladder: of the run. Its configurations that the table has a row for become the bundle's.
      table: measured on these weights, the full model among its rows.

    Raises:
      ValueError: a unit has no parameters, a collection is not known, the ladder has another number
        of blocks, or the table has no row of the full model, or gives a row another size; names it.
    """
    if len(block_names) != sum(ladder.stage_sizes):
        raise ValueError(
            f"the model has {len(block_names)} blocks, the ladder's stage_sizes="
            f"{ladder.stage_sizes} has {sum(ladder.stage_sizes)}; they are not of one run"
        )
    measured = {row.configuration: row for row in table.rows}
    if ladder.full.name not in measured:
        raise ValueError(
            f"the look-up table has no row of the full model, {ladder.full.name!r}; it has "
            f"{sorted(measured)}"
        )
    ladder = dataclasses.replace(
        ladder, configurations=tuple(c for c in ladder if c.name in measured)
    )
    segments: dict[str, dict[str, np.ndarray]] = {"base": {}}
    for name in base_names:
        tensors = _tensors_of_unit(variables, name)
        segments["base"] |= {f"{name}/{path}": array for path, array in tensors.items()}
    # The ladder's first configuration may keep blocks: they are sent right after the base.
    for block in ladder.sending_order:
        segments[block_names[block]] = _tensors_of_unit(variables, block_names[block])

    configurations, rows = [], []
    for configuration in ladder:
        kept = {"base", *(block_names[block] for block in configuration.blocks)}
        needed = [name for name in segments if name in kept]
        row = measured[configuration.name]
        size = sum(array.nbytes for name in needed for array in segments[name].values())
        if row.size_bytes != size:
            raise ValueError(
                f"the look-up table gives {configuration.name!r} {row.size_bytes} bytes; its "
                f"arrays have {size}: the table is not of these weights"
            )
        configurations.append(
            {"name": configuration.name, "segments": needed, "skip_mask": configuration.skip_mask}
        )
        rows.append(row)
    return {
        "segments": segments,
        "depends_on": {name: [] if name == "base" else ["base"] for name in segments},
        "ladder": configurations,
        "model": {**description, "collections": COLLECTIONS},
        "table": LookupTable(
            tuple(rows), {k: v for k, v in table.provenance.items() if k in _OF_THE_TABLE}
        ),
        "provenance": table.provenance,
    }


def _tensors_of_unit(variables: Mapping[str, Any], unit: str) -> dict[str, np.ndarray]:
    if unit not in variables["params"]:
        raise ValueError(f"no parameters of {unit!r}; there are {sorted(variables['params'])}")
    tensors: dict[str, np.ndarray] = {}
    for collection, units in variables.items():
        for path, array in _flatten(units.get(unit, {})):
            last = path.rpartition("/")[2]
            found = next((c for c, ends in COLLECTIONS.items() if last in ends), "params")
            if found != collection or path in tensors:
                raise ValueError(
                    f"{collection}/{unit}/{path} would be taken for {found}; COLLECTIONS="
                    f"{COLLECTIONS} does not fit this model"
                )
            tensors[path] = np.asarray(array)
    return tensors


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves += _flatten(value, f"{prefix}{key}/")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def main(argv: list[str]) -> None:
    """Reads the run, writes the bundle, checks what was written, and prints a summary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax tells at length how it reads
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


def _measured_run(workdir: str, table: LookupTable) -> Any:
    """The checkpoint that the look-up table was measured on."""
    # Here, not above: `bundle_parts` is of use without JAX.
    from accordion_jax.training import load_run

    wanted = table.provenance.get("step")
    steps = []
    for which in ("latest", "best"):
        run = load_run(workdir, which)
        if run.step == wanted:
            return run
        steps.append(run.step)
    raise app.UsageError(
        f"the look-up table of {workdir} was measured at step {wanted}; its checkpoints are of "
        f"steps {steps}: run accordion_jax.main on it again, which sweeps and writes a new table"
    )


def summary(bundle: pathlib.Path) -> str:
    """Verifies a bundle on disk and returns what a person wants to know of it, in five lines."""
    manifest = verify_bundle(bundle)
    wire = sum(segment.size_bytes for segment in manifest.segments)
    raw = sum(segment.tensor_bytes for segment in manifest.segments)
    smallest, full = manifest.table.rows[0], manifest.table.full
    return "\n".join(
        [
            f"bundle    {bundle}",
            f"model_id  {manifest.model_id}",
            f"segments  {len(manifest.segments)}, {wire} bytes "
            f"({100 * (wire / raw - 1):.2f} % more than the arrays); every digest checked",
            f"ladder    {len(manifest.ladder)} configurations, from {smallest.configuration} "
            f"(error {smallest.top1_error:.4f}, first {manifest.segments[0].size_bytes} bytes)",
            f"          to {full.configuration} (error {full.top1_error:.4f})",
        ]
    )


if __name__ == "__main__":
    app.run(main)
