"""What is sent of each network, byte for byte, and what a device then holds.

All norms are folded into the convolutions before them. A rival is one segment, with one code for
all of its weights. Names, shapes and the description of the network are not counted: rivals get
theirs for nothing, and a replay adds Accordion's manifest.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.precision import with_measured_norms
from benchmarks.compositions.forms import Flat, Form, flatten, is_block_kernel, unflatten
from benchmarks.compositions.sparse import read_sparse, write_sparse
from benchmarks.compositions.wire import path_of, through, to_arrays, to_variables, unit_of

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
    variables: Mapping[str, Any], bits: Sequence[int], *, base_bits: int | None = None
) -> list[Sent]:
    """Returns a network after each step of its precision, all units in each step.

    Args:
      variables: ``{"params": {unit: tree}, "batch_stats": {unit: tree}}``, not folded.
      bits: a weight, in each step, coarse to fine.
      base_bits: of stem and head, where they are to have another number in all steps.
    """
    arrays = to_arrays(fold_norms(variables))
    base = (base_bits,) * len(bits) if base_bits else bits
    asked = {name: base if unit_of(name) in BASE else bits for name in arrays}
    found, total = [], 0
    for size, held in through(arrays, asked):
        total += size
        found.append(Sent(to_variables(held), total))
    return found


def rounded(variables: Mapping[str, Any], bits: int) -> dict[str, Any]:
    """Returns a network with its kernels on the levels of so many bits; its norms are as they were.

    Args:
      variables: as `dense`.
      bits: a weight of a kernel.
    """
    arrays = to_arrays(variables)
    kernels = {name: x for name, x in arrays.items() if name.endswith("/kernel")}
    ((_, held),) = through(kernels, dict.fromkeys(kernels, (bits,)))
    return to_variables(arrays | held)


def by_depth(
    variables: Mapping[str, Any],
    bits: Sequence[int],
    blocks: Sequence[str],
    renew: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Returns what a device holds after each step of precision, and the bytes until each depth.

    Args:
      variables: of a network of any depth, not folded.
      bits: a weight, in each step, coarse to fine.
      blocks: units of the blocks, in the order in which they are sent.
      renew: gives a network statistics of what its norms see, for few bits.

    Returns:
      Variables a step; and a step's list of bytes: with the base alone, with the first block, and
      so on, in the first step; in the others all blocks are there already, and each number is that
      with one segment more refined.
    """
    chains = with_measured_norms(
        variables, renew, base_names=BASE, block_names=tuple(blocks), bits=bits
    )
    steps = range(len(bits))
    sizes = [[chains.size_bytes(name, step) for name in chains.names] for step in steps]
    until = np.cumsum(sizes).reshape(len(bits), -1)
    held = [chains.variables(dict.fromkeys(chains.names, step)) for step in steps]
    return held, until.tolist()


def sparse(variables: Mapping[str, Any], bits: int) -> Sent:
    """Returns a pruned network: blocks' kernels sparse, stem and head in 8 bits.

    Args:
      variables: as `dense`; pruned weights are zero.
      bits: a weight of a block that is not zero.
    """
    arrays = to_arrays(fold_norms(variables))
    kernels = {name: x for name, x in arrays.items() if is_block_kernel(path_of(name))}
    rest = {name: x for name, x in arrays.items() if name not in kernels}
    content = write_sparse(kernels, bits)
    ((size, held),) = through(rest, dict.fromkeys(rest, (8,)))
    held |= read_sparse(content, {name: x.shape for name, x in kernels.items()})
    return Sent(to_variables(held), len(content) + size)


def factored(form: Form, params: Flat, statistics: Flat, bits: int) -> Sent:
    """Returns a network of factors: both factors of each kernel are sent, the product is run.

    Args:
      form: `forms.Factored`.
      params: of the form.
      statistics: running ones of the network.
      bits: a weight.
    """
    # A norm that is folded scales the outputs, which are the second factor's.
    first = {path: np.asarray(x) for path, x in params.items() if path.endswith("/first")}
    rest = {path.removesuffix("/second"): x for path, x in params.items() if path not in first}
    folded = fold_norms({"params": unflatten(rest), "batch_stats": unflatten(statistics)})
    arrays = to_arrays(folded) | {f"params:{path}": x for path, x in first.items()}
    ((size, held),) = through(arrays, dict.fromkeys(arrays, (bits,)))
    trained = {}
    for path in flatten(folded["params"]):
        trained[f"{path}/second" if f"{path}/first" in first else path] = held[f"params:{path}"]
    trained |= {path: held[f"params:{path}"] for path in first}
    network = {path: np.asarray(x) for path, x in form.network(trained, {}).items()}
    others = {name: x for name, x in held.items() if not name.startswith("params:")}
    return Sent({**to_variables(others), "params": unflatten(network)}, size)
