"""Cuts the variables of a network into segments: the base, and one a block. NumPy only.

Here the arrays are as they are; `encoding` sends them in fewer bits. Statistics of configurations'
own come last.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.encodings.chain import encode_chain
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import encodings_for
from accordion_jax.delivery.bundle.statistics import check_values, shared_name, unit_of
from accordion_jax.delivery.bundle.writing import Piece
from accordion_jax.depth import Ladder, LookupTable, Row, UnitCost, derive_row

# The first segment: stem and head.
BASE = "base"

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
    own: Mapping[str, Mapping[str, Any]] | None = None,
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
      own: configuration -> unit -> statistics of its own, of those that were measured with them.
        Without them each is in the bundle too, as `statistics.shared_name` calls it.

    Raises:
      ValueError: a unit has no parameters, a collection is not known, the ladder has another number
        of blocks, or the table has no row of the full model, or gives a row another size; names it.
    """
    ladder = measured_ladder(ladder, table, block_names)
    measured = {row.configuration: row for row in table.rows}
    segments: dict[str, dict[str, np.ndarray]] = {BASE: {}}
    for name in base_names:
        tensors = tensors_of_unit(variables, name)
        segments[BASE] |= {f"{name}/{path}": array for path, array in tensors.items()}
    # The ladder's first configuration may keep blocks: they are sent right after the base.
    for block in ladder.sending_order:
        segments[block_names[block]] = tensors_of_unit(variables, block_names[block])

    statistics = {name: own_piece(name, trees, 32) for name, trees in (own or {}).items()}
    made = []
    for configuration in ladder:
        kept = {BASE, *(block_names[block] for block in configuration.blocks)}
        needed = [name for name in segments if name in kept]
        row = measured[configuration.name]
        size = sum(array.nbytes for name in needed for array in segments[name].values())
        piece = statistics.get(configuration.name)
        if row.size_bytes != size + (piece.layout.tensor_bytes if piece else 0):
            raise ValueError(
                f"the look-up table gives {configuration.name!r} {row.size_bytes} bytes; its "
                f"arrays have {size}: the table is not of these weights"
            )
        plain = without_own(row, size, table) if piece else row
        entry = {"segments": needed, "skip_mask": configuration.skip_mask}
        made.append((plain, {"name": plain.configuration, **entry}))
        if piece:
            entry |= {"segments": [*needed, piece.unit], "statistics": piece.unit}
            made.append((row, {"name": row.configuration, **entry}))
    made.sort(key=lambda pair: pair[0].size_bytes)
    return {
        "segments": {**segments, **{piece.unit: piece for piece in statistics.values()}},
        "ladder": [configuration for _, configuration in made],
        "model": {**description, "runtime": "networks", "collections": COLLECTIONS},
        "table": LookupTable(tuple(row for row, _ in made), table.provenance),
        "provenance": table.provenance,
    }


def own_piece(configuration: str, trees: Mapping[str, Any], bits: int) -> Piece:
    """Returns a configuration's own statistics as `write_bundle` takes them.

    Args:
      configuration: of the run's ladder.
      trees: unit -> statistics.
      bits: a weight of the bundle's finest step: with 32 they are float32, with fewer float16.

    Raises:
      BundleError: they are none: a number is not finite, or a variance below zero.
    """
    arrays = {path: np.asarray(array) for path, array in _flatten(trees)}
    check_values(arrays)
    bits = 32 if bits == 32 else 16
    (content,) = encode_chain(arrays, [encodings_for(arrays, bits)])
    return Piece(unit_of(configuration), bits, Layout.of(arrays), content)


def without_own(row: Row, size_bytes: int, table: LookupTable) -> Row:
    """Returns the row of a configuration with the statistics that its blocks come with.

    Args:
      row: of it with its own.
      size_bytes: without its own.
      table: of the run; its provenance says what was counted without.
    """
    counted = table.provenance["statistics"]["own"][row.configuration]
    return derive_row(
        shared_name(row.configuration),
        stage_blocks=row.stage_blocks,
        blocks=table.full.depth,
        cost=UnitCost(row.parameters, size_bytes, row.macs),
        full_bytes=table.full.size_bytes,
        examples=row.examples,
        errors=counted["shared_errors"],
        cross_entropy=counted["shared_cross_entropy"],
    )


def measured_ladder(ladder: Ladder, table: LookupTable, block_names: Sequence[str]) -> Ladder:
    """Returns the configurations of a ladder that a table has a row for.

    Args:
      ladder: of the run.
      table: likewise.
      block_names: units of the blocks.

    Raises:
      ValueError: the ladder has another number of blocks, or the table has no row of the full
        model.
    """
    if len(block_names) != sum(ladder.stage_sizes):
        raise ValueError(
            f"the model has {len(block_names)} blocks, the ladder's stage_sizes="
            f"{ladder.stage_sizes} has {sum(ladder.stage_sizes)}; they are not of one run"
        )
    measured = {row.configuration for row in table.rows}
    if ladder.full.name not in measured:
        raise ValueError(
            f"the look-up table has no row of the full model, {ladder.full.name!r}; it has "
            f"{sorted(measured)}"
        )
    return dataclasses.replace(
        ladder, configurations=tuple(c for c in ladder if c.name in measured)
    )


def tensors_of_unit(variables: Mapping[str, Any], unit: str) -> dict[str, np.ndarray]:
    """Returns a unit's arrays by their path in it, of all collections.

    Args:
      variables: ``{collection: {unit: tree}}``.
      unit: of the network.

    Raises:
      ValueError: there is no such unit, or `COLLECTIONS` does not fit; names it.
    """
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


def tree_of(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns arrays by path as ``{collection: {unit: tree}}``.

    Args:
      prefix: of the paths, such as ``stage1_block01/``.
      arrays: by path.
    """
    result: dict[str, Any] = {}
    for path, array in arrays.items():
        *parts, last = f"{prefix}{path}".split("/")
        node = result.setdefault(
            next((c for c, ends in COLLECTIONS.items() if last in ends), "params"), {}
        )
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = array
    return result


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves += _flatten(value, f"{prefix}{key}/")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves
