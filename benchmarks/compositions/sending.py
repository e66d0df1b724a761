"""What is sent of each network, byte for byte, and what a device then holds.

All norms are folded into the convolutions before them. Names, shapes and the description of the
network are not counted: rivals get theirs for nothing, and a replay adds Accordion's manifest.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.precision import at_bits
from benchmarks.compositions.forms import Flat, Form, flatten, is_block_kernel, unflatten
from benchmarks.compositions.sparse import read_sparse, write_sparse

BASE = ("stem", "head")


@dataclasses.dataclass(frozen=True)
class Sent:
    """What has arrived.

    Attributes:
      variables: of the network, as the device decodes them.
      size_bytes: until it is there, all that comes before included.
    """

    variables: dict[str, Any]
    size_bytes: int


def dense(
    variables: Mapping[str, Any],
    bits: int | Sequence[int],
    *,
    base_bits: int | None = None,
) -> list[Sent]:
    """Returns a network after each step of its precision, all units in each step.

    Args:
      variables: ``{"params": {unit: tree}, "batch_stats": {unit: tree}}``, not folded.
      bits: a weight; several are steps, coarse to fine, each a refinement of the one before.
      base_bits: of stem and head in the first step where they are to have another number.
    """
    steps = (bits,) if isinstance(bits, int) else tuple(bits)
    folded = fold_norms(variables)
    units = tuple(variables["params"])
    asked: dict[str, Sequence[int]] = dict.fromkeys(units, steps)
    if base_bits is not None:
        asked |= dict.fromkeys(BASE, (base_bits,))
    found = []
    for count in range(1, len(steps) + 1):
        received = dict.fromkeys((*units, "base"), count)
        decoded, sizes = at_bits(folded, asked, base_names=BASE, received=received)
        found.append(Sent(decoded, sum(sum(each[:count]) for each in sizes.values())))
    return found


def by_depth(
    variables: Mapping[str, Any], bits: int | Sequence[int], blocks: Sequence[str]
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Returns what a device holds after each step of precision, and the bytes until each depth.

    Args:
      variables: of a network of any depth, not folded.
      bits: a weight; several are steps, as `dense`.
      blocks: units of the blocks, in the order in which they are sent.

    Returns:
      Variables a step; and a step's list of bytes: with the base alone, with the first block, and
      so on, in the first step; in the others all blocks are there already, and each number is that
      with one segment more refined.
    """
    steps = (bits,) if isinstance(bits, int) else tuple(bits)
    folded, segments = fold_norms(variables), ("base", *blocks)
    asked = dict.fromkeys(variables["params"], steps)
    held, sizes, total = [], [], 0
    for step in range(len(steps)):
        received = dict.fromkeys(segments, step + 1)
        decoded, found = at_bits(folded, asked, base_names=BASE, received=received)
        until = total + np.cumsum([found[segment][step] for segment in segments])
        total = int(until[-1])
        held.append(decoded)
        sizes.append([int(each) for each in until])
    return held, sizes


def sparse(variables: Mapping[str, Any], bits: int) -> Sent:
    """Returns a pruned network: blocks' kernels sparse, stem and head in 8 bits.

    Args:
      variables: as `dense`; pruned weights are zero.
      bits: a weight of a block that is not zero.
    """
    folded = fold_norms(variables)
    params = flatten(folded["params"])
    kernels = {path: np.asarray(x) for path, x in params.items() if is_block_kernel(path)}
    content = write_sparse(kernels, bits)
    rest = unflatten({path: x for path, x in params.items() if path not in kernels})
    decoded, sizes = at_bits({**folded, "params": rest}, dict.fromkeys(rest, 8), base_names=BASE)
    held = read_sparse(content, {path: x.shape for path, x in kernels.items()})
    decoded["params"] = unflatten(flatten(decoded["params"]) | held)
    return Sent(decoded, len(content) + sum(map(sum, sizes.values())))


def factored(form: Form, params: Flat, statistics: Flat, bits: int) -> Sent:
    """Returns a network of factors: both factors of each kernel are sent, the product is run.

    Args:
      form: `forms.Factored`.
      params: of the form.
      statistics: running ones of the network.
      bits: a weight.
    """
    # A norm that is folded scales the outputs, which are the second factor's.
    second = {
        path.removesuffix("/second"): x for path, x in params.items() if not path.endswith("/first")
    }
    first = {path: np.asarray(x) for path, x in params.items() if path.endswith("/first")}
    folded = fold_norms({"params": unflatten(second), "batch_stats": unflatten(statistics)})
    named = {path.replace("/kernel/", "/"): x for path, x in first.items()}
    folded["params"] = unflatten(flatten(folded["params"]) | named)
    decoded, sizes = at_bits(folded, dict.fromkeys(folded["params"], bits), base_names=BASE)
    held = flatten(decoded["params"])
    both = {}
    for path, x in held.items():
        if path.endswith("/first"):
            both[path.replace("/first", "/kernel/first")] = x
        elif path.removesuffix("/kernel") + "/first" in held:
            both[f"{path}/second"] = x
        else:
            both[path] = x
    network = {path: np.asarray(x) for path, x in form.network(both, {}).items()}
    decoded["params"] = unflatten(network)
    return Sent(decoded, sum(map(sum, sizes.values())))
