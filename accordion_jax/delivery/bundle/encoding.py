"""A network in steps of bits as the arguments of `write_bundle`. NumPy only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from accordion_jax.delivery.bundle.cutting import COLLECTIONS
from accordion_jax.delivery.bundle.ordering import Item, Rung
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.depth import LookupTable, UnitCost, derive_row

# A manifest is sent first, and what follows the third digit of a loss is noise.
_LOSS_DIGITS = 3


class Measured(NamedTuple):
    """What a model does on examples.

    Attributes:
      examples: how many answers were judged.
      errors: how many of them were wrong.
      cross_entropy: mean, in nats.
    """

    examples: int
    errors: int
    cross_entropy: float


def encoded_parts(
    chains: Chains,
    order: Sequence[Item],
    rungs: Iterable[tuple[Rung, Measured]],
    *,
    description: Mapping[str, Any],
    table: LookupTable,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the arguments of `write_bundle`.

    Args:
      chains: of the network.
      order: in which all of its segments are sent.
      rungs: each with what was measured of it; those of the order, and others.
      description: family, arguments, input and classes, for the manifest.
      table: of the run in float32: what a configuration costs to run, and where it comes from.
      facts: for the provenance, beside the table's: how the bundle was made.
    """
    plain = {row.configuration: row for row in table.rows}
    full = max(plain.values(), key=lambda row: row.depth)
    place = {item: i for i, item in enumerate(order)}
    full_bytes = sum(chains.size_bytes(*item) for item in order)
    rows, ladder = {}, {}
    for rung, measured in rungs:
        row = plain[rung.configuration.name]
        items = sorted(rung.items, key=place.__getitem__)
        size_bytes = sum(chains.size_bytes(*item) for item in items)
        name = rung.name(chains.bits)
        made = derive_row(
            name,
            stage_blocks=row.stage_blocks,
            blocks=full.depth,
            cost=UnitCost(row.parameters, size_bytes, row.macs),
            full_bytes=full_bytes,
            examples=measured.examples,
            errors=measured.errors,
            cross_entropy=round(measured.cross_entropy, _LOSS_DIGITS),
        )
        # A table's rows grow. Of two models of equal bytes the better one stays.
        if size_bytes not in rows or made.top1_error < rows[size_bytes].top1_error:
            rows[size_bytes] = made
            ladder[size_bytes] = {
                "name": name,
                "segments": [chains.segment(*item) for item in items],
                "skip_mask": rung.configuration.skip_mask,
            }
    facts = {**table.provenance, **facts}
    return {
        "segments": {chains.segment(*item): chains.piece(*item) for item in order},
        "ladder": [ladder[size] for size in sorted(ladder)],
        "model": {**description, "runtime": "networks", "collections": COLLECTIONS},
        "table": LookupTable(tuple(rows[size] for size in sorted(rows)), facts),
        "provenance": facts,
    }
