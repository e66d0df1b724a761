"""The compositions: every network as it is sent, with the bytes until it is there."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax import models
from benchmarks.compositions import rivals, sending
from benchmarks.compositions.forms import Factored, Form, Pruned, flatten, unflatten
from benchmarks.compositions.sending import Sent

# Gives a network new statistics of its norms.
Recalibrate = Callable[[models.Network, Mapping[str, Any]], dict[str, Any]]

PLAIN = "plain"
PLAIN_BITS = (32, 16, 8, 6, 5, 4, 3)
# Successive precisions of the plain network: each is refined to the next.
BIT_PLANES = ((2, 4, 8), (3, 5, 8), (4, 6, 8), (4, 5, 6, 8))
FEW_BITS = (8, 6, 5, 4)
CALIBRATED_BITS = (5, 4, 3)
CALIBRATED_FORMS = (
    Pruned(0.5),
    Pruned(0.75),
    Factored("spatial", 0.75),
    Factored("spatial", 0.5),
    Factored("channel", 0.5),
)
ACCORDION_BITS = (32, 16, 8, 6, 5, 4)
ACCORDION_STEPS = ((4, 6), (4, 8), (5, 8))


@dataclasses.dataclass(frozen=True)
class Composition:
    """A way to send a network, or several, one after the other.

    Attributes:
      name: unique.
      family: of the ways that differ only in numbers.
      model: network.
      make: returns what has arrived, in the order of arrival; it may take seconds.
      what: what each of them is called.
      note: what a reader should know.
    """

    name: str
    family: str
    model: models.Network
    make: Callable[[], Sequence[Sent]]
    what: Sequence[str]
    note: str = ""


def of_plain(
    model: models.Network, variables: Mapping[str, Any], which: str = PLAIN
) -> Iterator[Composition]:
    """Yields the plain network at each precision, and in successive precisions.

    Args:
      model: of the variables.
      variables: not folded.
      which: what rows call the network.
    """
    for bits in PLAIN_BITS:
        name = f"float{bits}" if bits > 8 else f"{bits} bits"
        make = functools.partial(sending.dense, variables, (bits,))
        yield Composition(f"{which} {name}", "plain", model, make, [name])
    for steps in BIT_PLANES:
        make = functools.partial(sending.dense, variables, steps)
        name = f"{which} bit-planes {'-'.join(map(str, steps))}"
        what = [f"{bits} bits" for bits in steps]
        yield Composition(name, "bit-planes", model, make, what)


def without_training(
    model: models.Network,
    variables: Mapping[str, Any],
    recalibrate: Recalibrate,
    which: str = PLAIN,
) -> Iterator[Composition]:
    """Yields what an hour makes of the plain network: no training, new statistics of its norms.

    Args:
      model: of the variables.
      variables: not folded.
      recalibrate: gives a network new statistics.
      which: what rows call the network.
    """
    note = "not trained; statistics of batch norms renewed on training images"

    def quantised(bits: int) -> Sequence[Sent]:
        return sending.dense(recalibrate(model, sending.rounded(variables, bits)), (bits,))

    for bits in CALIBRATED_BITS:
        name = f"{which} {bits} bits recalibrated"
        make = functools.partial(quantised, bits)
        yield Composition(name, "recalibrated", model, make, [f"{bits} bits"], note)
        note = ""

    @functools.lru_cache(maxsize=1)
    def renewed(form: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
        params, fixed = form.begin(flatten(variables["params"]))
        network = {path: np.asarray(x) for path, x in form.network(params, fixed).items()}
        changed = {"params": unflatten(network), "batch_stats": variables["batch_stats"]}
        return params, recalibrate(model, changed)

    def changed(form: Form, bits: int) -> Sequence[Sent]:
        params, held = renewed(form)
        if isinstance(form, Pruned):
            return [sending.sparse(held, bits)]
        return [sending.factored(form, params, flatten(held["batch_stats"]), bits)]

    for form in CALIBRATED_FORMS:
        what = (
            f"pruned-{100 * form.share:g}"
            if isinstance(form, Pruned)
            else f"{form.way} rank {form.share:g} c"
        )
        for bits in (8, 5):
            name = f"{which} {what} {bits} bits recalibrated"
            make = functools.partial(changed, form, bits)
            yield Composition(name, "recalibrated", model, make, [f"{bits} bits"])


def of_rivals(folder: pathlib.Path) -> Iterator[Composition]:
    """Yields what `benchmarks.compositions.train` has trained, each at some precisions."""
    for path in sorted(folder.glob("*.json")):
        yield from of_rival(rivals.load(path))


def of_rival(trained: rivals.Trained) -> Iterator[Composition]:
    """Yields one trained rival at some precisions."""
    name, model, kind = trained.row["name"], trained.model, trained.form.kind
    variables, note = trained.variables, _training_of(trained.row)
    if kind == "quantised":
        bits = trained.row["form"]["bits"]
        make = functools.partial(sending.dense, variables, (bits,), base_bits=8)
        yield Composition(f"{name} fine-tuned", kind, model, make, [f"{bits} bits"], note)
        return
    family = {"factored": "low rank", "whole": "small network"}.get(kind, kind)
    for bits in FEW_BITS:
        each = functools.partial(_trained, trained, variables, bits)
        yield Composition(f"{name} {bits} bits", family, model, each, [f"{bits} bits"], note)
        note = ""


def _trained(trained: rivals.Trained, variables: Mapping[str, Any], bits: int) -> Sequence[Sent]:
    kind = trained.form.kind
    if kind == "pruned":
        return [sending.sparse(variables, bits)]
    if kind == "factored":
        return [sending.factored(trained.form, trained.params, trained.statistics, bits)]
    return sending.dense(variables, (bits,))


def _training_of(row: Mapping[str, Any]) -> str:
    """How a rival was trained, and how well."""
    facts = []
    if "epochs" in row:
        facts.append(f"{row['epochs']:.1f} epochs of {row['train_images']:,} images")
    if "error_held_out" in row:
        facts.append(f"float32 on held-out images {100 * row['error_held_out']:.2f} %")
    if source := row.get("source"):
        facts.append(f"the plain network that it is of {100 * source['error_held_out']:.2f} %")
    return ", ".join(facts)


@dataclasses.dataclass(frozen=True)
class Depths:
    """A network of any depth: precisions one after the other, each at all depths.

    Attributes:
      name: unique.
      family: of those that differ only in bits.
      model: network.
      bits: a weight, in each step.
      make: returns variables a step, and a step's bytes until each depth (`sending.by_depth`).
    """

    name: str
    family: str
    model: models.Network
    bits: Sequence[int]
    make: Callable[[], tuple[list[dict[str, Any]], list[list[int]]]]


def of_elastic(
    model: models.Network,
    variables: Mapping[str, Any],
    blocks: Sequence[str],
    recalibrate: Recalibrate,
    sparsity: float = 0.0,
    rounded: bool = False,
) -> Iterator[Depths]:
    """Yields a network of any depth at each precision, and with refinements.

    Args:
      model: of any depth.
      variables: of it.
      blocks: units in the order in which they are sent.
      recalibrate: gives a network new statistics, as a bundle of few bits has them.
      sparsity: share of its blocks' weights that are zero; part of the rows' names.
      rounded: whether it was trained with rounded weights; likewise.
    """
    renew = functools.partial(recalibrate, model)
    which = " ".join(
        ["Accordion"]
        + ([f"pruned-{100 * sparsity:g}"] if sparsity else [])
        + (["rounded"] if rounded else [])
        + (["own heads"] if getattr(model, "own_heads", False) else [])
    )
    for steps in (*((bits,) for bits in ACCORDION_BITS), *ACCORDION_STEPS):
        name = f"{which} {'-'.join(map(str, steps))} bits"
        make = functools.partial(sending.by_depth, variables, steps, blocks, renew)
        yield Depths(name, which, model, steps, make)
