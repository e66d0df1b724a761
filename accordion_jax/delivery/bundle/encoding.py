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
    full_bytes = _wire_bytes(chains, order)
    made = []
    for rung, measured in rungs:
        row = plain[rung.configuration.name]
        items = sorted(rung.items, key=place.__getitem__)
        new = derive_row(
            rung.name(chains.bits),
            stage_blocks=row.stage_blocks,
            blocks=full.depth,
            cost=UnitCost(row.parameters, _wire_bytes(chains, items), row.macs),
            full_bytes=full_bytes,
            examples=measured.examples,
            errors=measured.errors,
            cross_entropy=round(measured.cross_entropy, _LOSS_DIGITS),
        )
        configuration = {
            "name": new.configuration,
            "segments": [chains.segment(*item) for item in items],
            "skip_mask": rung.configuration.skip_mask,
        }
        made.append((new, configuration))
    # Off the path there may be what is on it too.
    unique = {row.configuration: (row, configuration) for row, configuration in made}
    made = sorted(unique.values(), key=lambda pair: (pair[0].size_bytes, len(pair[1]["segments"])))
    facts = {**table.provenance, **facts}
    return {
        "segments": {chains.segment(*item): chains.piece(*item) for item in order},
        "ladder": [configuration for _, configuration in made],
        "model": {**description, "runtime": "networks", "collections": COLLECTIONS},
        "table": LookupTable(tuple(row for row, _ in made), facts),
        "provenance": facts,
    }


def _wire_bytes(chains: Chains, items: Iterable[Item]) -> int:
    """Of equal contents one is sent."""
    return sum(map(len, {chains.contents[name][step] for name, step in items}))
