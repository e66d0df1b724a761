"""One row of a look-up table: what a configuration costs, and how well it does."""

import dataclasses
import math
import typing
from typing import Any

from accordion_jax.depth.bounds import wilson_interval
from accordion_jax.depth.ladder import Configuration, Ladder


@dataclasses.dataclass(frozen=True)
class UnitCost:
    """What one unit of a model (the base, or a block) costs.

    Attributes:
      parameters: trained numbers.
      size_bytes: bytes of every array that is sent, batch-norm statistics included.
      macs: multiply-accumulate operations for one image.
    """

    parameters: int
    size_bytes: int
    macs: int

    def __add__(self, other: "UnitCost") -> "UnitCost":
        return UnitCost(
            self.parameters + other.parameters,
            self.size_bytes + other.size_bytes,
            self.macs + other.macs,
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration of a look-up table.

    Attributes:
      configuration: its name on the ladder.
      depth: blocks kept.
      stage_blocks: blocks kept in each stage.
      parameters: trained numbers.
      size_bytes: bytes that are sent, base and batch-norm statistics included, its own too.
      mbit: the same in 10^6 bits.
      share_of_bytes: of the full model's bytes, 0 to 1.
      share_of_blocks: of the full model's blocks, 0 to 1.
      macs: multiply-accumulates for one image.
      examples: images that the error was measured on.
      errors: how many of them were classified wrongly (top-1).
      top1_error: errors / examples.
      error_low: lower end of the 95 % Wilson interval of top1_error.
      error_high: upper end.
      cross_entropy: mean, in nats.
      bits: a weight, as it is sent; the mean over the weights that are kept.
    """

    configuration: str
    depth: int
    stage_blocks: tuple[int, ...]
    parameters: int
    size_bytes: int
    mbit: float
    share_of_bytes: float
    share_of_blocks: float
    macs: int
    examples: int
    errors: int
    top1_error: float
    error_low: float
    error_high: float
    cross_entropy: float
    bits: float = 32.0


def make_row(
    ladder: Ladder,
    configuration: Configuration,
    *,
    base: UnitCost,
    blocks: tuple[UnitCost, ...],
    examples: int,
    errors: int,
    cross_entropy: float,
    own_bytes: int = 0,
) -> Row:
    """Returns the row of one configuration, its costs summed over the base and the kept blocks.

    Args:
      ladder: gives the stages.
      configuration: one of the ladder's.
      base: cost of stem and head.
      blocks: cost of every block of the full model, in the order of the forward pass.
      examples: images that the error was measured on.
      errors: wrongly classified of them.
      cross_entropy: mean, in nats.
      own_bytes: of what is sent for this configuration alone, its own statistics.
    """
    return derive_row(
        configuration.name,
        stage_blocks=ladder.stage_blocks(configuration),
        blocks=len(blocks),
        cost=sum((blocks[i] for i in configuration.blocks), base + UnitCost(0, own_bytes, 0)),
        full_bytes=sum(blocks, base).size_bytes,
        examples=examples,
        errors=errors,
        cross_entropy=cross_entropy,
    )


def derive_row(
    configuration: str,
    *,
    stage_blocks: tuple[int, ...],
    blocks: int,
    cost: UnitCost,
    full_bytes: int,
    examples: int,
    errors: int,
    cross_entropy: float,
    bits: float = 32.0,
) -> Row:
    """Returns the row that follows from what was counted.

    Args:
      configuration: its name.
      stage_blocks: blocks kept in each stage.
      blocks: of the full model.
      cost: of all that the configuration needs.
      full_bytes: of the full model.
      examples: images that the error was measured on.
      errors: wrongly classified of them.
      cross_entropy: mean, in nats.
      bits: a weight, as it is sent.
    """
    low, high = wilson_interval(errors, examples)
    depth = sum(stage_blocks)
    return Row(
        configuration=configuration,
        depth=depth,
        stage_blocks=stage_blocks,
        parameters=cost.parameters,
        size_bytes=cost.size_bytes,
        mbit=cost.size_bytes * 8 / 1e6,
        share_of_bytes=cost.size_bytes / full_bytes,
        share_of_blocks=depth / max(blocks, 1),
        macs=cost.macs,
        examples=examples,
        errors=errors,
        top1_error=errors / examples,
        error_low=low,
        error_high=high,
        cross_entropy=cross_entropy,
        bits=bits,
    )


def fields_of(row: Row) -> dict[str, Any]:
    """Returns a row as a JSON object: with its bits only where they are not those of float32."""
    fields = dataclasses.asdict(row)
    if row.bits == _FLOAT32_BITS:
        del fields["bits"]
    return fields


# Of the rows that do not say.
_FLOAT32_BITS = 32.0
_JSON_TYPES: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}
_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    name: _JSON_TYPES.get(annotation, (list,))
    for name, annotation in typing.get_type_hints(Row).items()
}


def row_from_dict(row: Any, source: str) -> Row:
    """Returns what `fields_of` made an object of.

    Raises:
      ValueError: a field is missing, unknown or of the wrong type, or does not follow from those
        that it derives from; names the source and the field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{source}: a row must be an object; got {row!r}")
    row = {"bits": _FLOAT32_BITS, **row}
    for name in _FIELD_TYPES.keys() ^ row.keys():
        problem = "lacks" if name in _FIELD_TYPES else "has the unknown field"
        raise ValueError(f"{source}: row {row.get('configuration')!r} {problem} {name!r}")
    for name, wanted in _FIELD_TYPES.items():
        if not isinstance(row[name], wanted) or isinstance(row[name], bool):
            raise ValueError(
                f"{source}: row {row['configuration']!r} has {name}={row[name]!r}; "
                f"wanted {' or '.join(each.__name__ for each in wanted)}"
            )
    if any(type(blocks) is not int for blocks in row["stage_blocks"]):
        raise ValueError(
            f"{source}: row {row['configuration']!r} has stage_blocks={row['stage_blocks']}; "
            "wanted list of int"
        )
    check_finite(row, source)
    for name, value in row.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError(
                    f"{source}: row {row['configuration']!r} has {name}={number}; wanted less than "
                    "2^63"
                )
    checked = Row(**(row | {"stage_blocks": tuple(row["stage_blocks"])}))
    _check_row(checked, source)
    return checked


def check_finite(row: dict[str, Any], source: str) -> None:
    """Does nothing where all numbers of a row are finite.

    Python's own reader and writer take NaN and Infinity, which JSON does not have.

    Raises:
      ValueError: one is not; names the source, the row and the field.
    """
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{source}: row {row['configuration']!r} has {name}={value}; wanted a finite number"
            )


def _check_row(row: Row, source: str) -> None:
    """Refuses what cannot be, and what does not follow from the numbers that it derives from."""

    def refuse(name: str, wanted: str) -> typing.NoReturn:
        raise ValueError(
            f"{source}: row {row.configuration!r} has {name}={getattr(row, name)!r}; wanted "
            f"{wanted}"
        )

    for name in ("depth", "parameters", "size_bytes", "macs", "cross_entropy"):
        if getattr(row, name) < 0:
            refuse(name, "0 or more")
    if row.examples < 1:
        refuse("examples", "1 or more")
    if not 0 <= row.errors <= row.examples:
        refuse("errors", f"0 to examples={row.examples}")
    if not 0 < row.bits <= 64:
        refuse("bits", "more than 0, at most 64")
    if min(row.stage_blocks, default=0) < 0 or sum(row.stage_blocks) != row.depth:
        refuse("stage_blocks", f"numbers of 0 or more whose sum is depth={row.depth}")
    for name in ("share_of_bytes", "share_of_blocks"):
        if not 0 <= getattr(row, name) <= 1:
            refuse(name, "0 to 1")
    low, high = wilson_interval(row.errors, row.examples)
    rate = f"of errors={row.errors} of examples={row.examples}"
    for name, derived, source_of_it in (
        ("mbit", row.size_bytes * 8 / 1e6, f"of size_bytes={row.size_bytes}"),
        ("top1_error", row.errors / row.examples, rate),
        ("error_low", low, f"the lower end of the 95 % interval {rate}"),
        ("error_high", high, f"the upper end of the 95 % interval {rate}"),
    ):
        if not _equal(getattr(row, name), derived):
            refuse(name, f"{derived!r}, {source_of_it}")


def _equal(one: float, other: float) -> bool:
    """But for the rounding of a program that computes it in another order."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
