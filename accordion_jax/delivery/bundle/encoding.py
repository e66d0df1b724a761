"""A network in steps of bits as the arguments of `write_bundle`. NumPy only."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from accordion_jax.delivery.bundle.cutting import COLLECTIONS
from accordion_jax.delivery.bundle.ordering import Item, Rung
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.statistics import shared_name
from accordion_jax.delivery.bundle.writing import Piece
from accordion_jax.depth import LookupTable, Row, UnitCost, derive_row

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
    own: Iterable[tuple[Rung, Measured]] = (),
    statistics: Mapping[str, Piece] | None = None,
) -> dict[str, Any]:
    """Returns the arguments of `write_bundle`.

    Args:
      chains: of the network.
      order: in which all of its segments are sent.
      rungs: each with what was measured of it; those of the order, and others. What errs no less
        than the same blocks in fewer bytes is left out, since no device would choose it; the full
        model in all bits stays.
      description: family, arguments, input and classes, for the manifest.
      table: of the run in float32: what a configuration costs to run, and where it comes from.
      facts: for the provenance, beside the table's: how the bundle was made.
      own: rungs of configurations that have own statistics, each with what was measured of it with
        these.
      statistics: configuration -> its own, of those that have any. Their rungs without it are in
        the bundle too, as `statistics.shared_name` calls them.
    """
    statistics = statistics or {}
    plain = {row.configuration: row for row in table.rows}
    full = max(plain.values(), key=lambda row: row.depth)
    place = {item: i for i, item in enumerate(order)}
    full_bytes = _wire_bytes(chains, order)
    made = []
    plainly = ((rung, measured, None) for rung, measured in rungs)
    with_own = ((rung, measured, statistics[rung.configuration.name]) for rung, measured in own)
    for rung, measured, piece in itertools.chain(plainly, with_own):
        row = plain[rung.configuration.name]
        items = sorted(rung.items, key=place.__getitem__)
        name = rung.name(chains.bits)
        is_shared = piece is None and row.configuration in statistics
        own_unit, own_bytes = ([piece.unit], len(piece.content)) if piece else ([], 0)
        new = derive_row(
            shared_name(name) if is_shared else name,
            stage_blocks=row.stage_blocks,
            blocks=full.depth,
            cost=UnitCost(row.parameters, _wire_bytes(chains, items) + own_bytes, row.macs),
            full_bytes=full_bytes,
            examples=measured.examples,
            errors=measured.errors,
            cross_entropy=round(measured.cross_entropy, _LOSS_DIGITS),
        )
        configuration = {
            "name": new.configuration,
            "segments": [*(chains.segment(*item) for item in items), *own_unit],
            "skip_mask": rung.configuration.skip_mask,
        }
        if piece:
            configuration["statistics"] = piece.unit
        made.append((new, configuration))
    # Off the path there may be what is on it too.
    unique = {row.configuration: (row, configuration) for row, configuration in made}
    made = sorted(unique.values(), key=lambda pair: (pair[0].size_bytes, len(pair[1]["segments"])))
    made = _worth_sending(made)
    facts = {**table.provenance, **facts}
    return {
        "segments": {
            **{chains.segment(*item): chains.piece(*item) for item in order},
            **{piece.unit: piece for piece in statistics.values()},
        },
        "ladder": [configuration for _, configuration in made],
        "model": {**description, "runtime": "networks", "collections": COLLECTIONS},
        "table": LookupTable(tuple(row for row, _ in made), facts),
        "provenance": facts,
    }


def _worth_sending(made: Sequence[tuple[Row, dict[str, Any]]]) -> list[tuple[Row, dict[str, Any]]]:
    """Those that err less than the same blocks in fewer bytes, and the last; smallest first.

    What a manifest says of the others would be bytes that every device waits for. Of configurations
    with own statistics all stay.
    """
    own = {each["skip_mask"] for _, each in made if "statistics" in each}
    kept, least = [], dict[tuple[bool, ...], float]()
    for row, configuration in made[:-1]:
        mask = configuration["skip_mask"]
        if row.errors < least.get(mask, math.inf) or mask in own:
            least[mask] = row.errors
            kept.append((row, configuration))
    return [*kept, *made[-1:]]


def _wire_bytes(chains: Chains, items: Iterable[Item]) -> int:
    """Of equal contents one is sent."""
    return sum(map(len, {chains.contents[name][step] for name, step in items}))
