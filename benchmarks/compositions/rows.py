"""The compositions: every network as it is sent, with the bytes until it is there."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accordion_jax import models
from benchmarks.compositions import rivals, sending
from benchmarks.compositions.sending import Sent

PLAIN_BITS = (32, 16, 8, 6, 5, 4, 3)
# Successive precisions of the plain network: each is refined to the next.
BIT_PLANES = ((2, 4, 8), (3, 5, 8), (4, 6, 8), (4, 5, 6, 8))
FEW_BITS = (8, 6, 5, 4)
ACCORDION_BITS = (32, 16, 8, 6, 5, 4)
ACCORDION_STEPS = ((4, 6), (4, 8), (5, 8))


@dataclasses.dataclass(frozen=True)
class Composition:
    """A way to send a network, or several, one after the other.

    Attributes:
      name: unique.
      family: of the ways that differ only in numbers.
      model: network.
      sent: what it is called -> what has arrived, in the order of arrival.
      note: what a reader should know.
    """

    name: str
    family: str
    model: models.Network
    sent: Mapping[str, Sent]
    note: str = ""


def of_plain(model: models.Network, variables: Mapping[str, Any]) -> Iterator[Composition]:
    """Yields the plain network at each precision, and in successive precisions."""
    for bits in PLAIN_BITS:
        (sent,) = sending.dense(variables, (bits,))
        name = f"float{bits}" if bits > 8 else f"{bits} bits"
        yield Composition(f"plain, {name}", "plain", model, {name: sent})
    for steps in BIT_PLANES:
        found = sending.dense(variables, steps)
        named = {f"{bits} bits": sent for bits, sent in zip(steps, found, strict=True)}
        name = ", then ".join(map(str, steps))
        yield Composition(f"bit-planes {name}", "bit-planes", model, named)


def of_rivals(folder: pathlib.Path) -> Iterator[Composition]:
    """Yields what `benchmarks.compositions.train` has trained, each at some precisions."""
    for path in sorted(folder.glob("*.json")):
        yield from of_rival(rivals.load(path))


def of_rival(trained: rivals.Trained) -> Iterator[Composition]:
    """Yields one trained rival at some precisions."""
    name, model, kind = trained.row["name"], trained.model, trained.form.kind
    variables, error = trained.variables, trained.row.get("error_held_out")
    note = "" if error is None else f"float32, held-out images: {100 * error:.2f} %"
    if kind == "quantised":
        bits = trained.row["form"]["bits"]
        (sent,) = sending.dense(variables, (bits,), base_bits=8)
        yield Composition(f"{name}, fine-tuned", kind, model, {f"{bits} bits": sent}, note)
        return
    for bits in FEW_BITS:
        if kind == "pruned":
            sent = sending.sparse(variables, bits)
        elif kind == "factored":
            sent = sending.factored(trained.form, trained.params, trained.statistics, bits)
        else:
            (sent,) = sending.dense(variables, (bits,))
        family = {"factored": "low rank", "whole": "small network"}.get(kind, kind)
        said = note if bits == FEW_BITS[0] else ""
        yield Composition(f"{name}, {bits} bits", family, model, {f"{bits} bits": sent}, said)


@dataclasses.dataclass(frozen=True)
class Depths:
    """A network of any depth: precisions one after the other, each at all depths.

    Attributes:
      name: unique.
      model: network.
      steps: bits a weight -> variables, and bytes until each depth (see `sending.by_depth`).
    """

    name: str
    model: models.Network
    steps: Mapping[int, tuple[dict[str, Any], list[int]]]


def of_elastic(
    model: models.Network, variables: Mapping[str, Any], blocks: Sequence[str]
) -> Iterator[Depths]:
    """Yields a network of any depth at each precision, and with refinements.

    Args:
      model: of any depth.
      variables: of it.
      blocks: units in the order in which they are sent.
    """
    for steps in (*((bits,) for bits in ACCORDION_BITS), *ACCORDION_STEPS):
        held, sizes = sending.by_depth(variables, steps, blocks)
        name = ", then ".join(map(str, steps))
        found = dict(zip(steps, zip(held, sizes, strict=True), strict=True))
        yield Depths(f"Accordion, {name} bits", model, found)
