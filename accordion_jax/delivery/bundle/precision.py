"""A network's segments in steps of bits a weight, through the bytes that are sent. NumPy only."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.cutting import BASE, tensors_of_unit, tree_of
from accordion_jax.delivery.bundle.encodings.chain import encode_chain, encode_onto
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import (
    encodings_for,
    read,
    refine,
)
from accordion_jax.delivery.bundle.folding import fold_norms, norms_to_measure, unit_norms
from accordion_jax.delivery.bundle.sent_bits import held
from accordion_jax.delivery.bundle.writing import Piece
from accordion_jax.delivery.errors import BundleError

# Of what a step sends of its own beside its kernels, in the first step; one less in each other.
_NORM_BITS = 8
# What changes is sent anew only if its encoding does.
_OTHERWISE = {"float16": "float32", "float32": "float16"}
# In so many, norms stay as they were trained.
MANY_BITS = 8
# A kernel with less than this share of a segment's weights has at least so many bits in each step:
# a block's own head in 4 bits costs the answers much, and in 8 the block 1 to 4 % more bytes.
_SMALL = 1 / 20


class Chains:
    """Each segment of a network in few bits, and the refinements that add the others.

    All goes through the bytes that are sent: what it returns is what a device decodes.

    Args:
      variables: ``{"params": {unit: tree}, "batch_stats": {unit: tree}}``; unchanged.
      base_names: units that are one segment, ``base``.
      block_names: units that are a segment each.
      bits: of the steps, coarse to fine, each 1 to 8, 16 or 32; see `encodings_for`.
      norms: step -> variables of that step in place of these. Arrays of one axis that differ are
        sent in integers where the step is not the last, and anew in the next.
      sent: what is out already in place of the first steps, unit -> piece of each. Kernels of the
        later steps are brought to levels that those of it round to.

    Attributes:
      names: of the segments: the base, then the blocks as given.
      bits: of the steps.
      contents: name -> bytes of each step: the tensors, and the refinements.

    Raises:
      BundleError: there are no such bits, or an array cannot be encoded.
      ValueError: there are no steps, they do not grow, or there is no such unit; names them.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        *,
        base_names: Sequence[str],
        block_names: Sequence[str],
        bits: Sequence[int],
        norms: Mapping[int, Mapping[str, Any]] | None = None,
        sent: Mapping[str, Sequence[Piece]] | None = None,
    ):
        if not bits or list(bits) != sorted({*bits}):
            raise ValueError(f"bits={list(bits)}; wanted one number or several that grow, as 4,8")
        self.bits = tuple(bits)
        self.names = (BASE, *block_names)
        self.contents: dict[str, tuple[bytes, ...]] = {}
        self._layouts: dict[str, Layout] = {}
        self._trees: dict[str, tuple[dict[str, Any], ...]] = {}
        of_steps = [(norms or {}).get(step, variables) for step in range(len(bits))]
        for name in self.names:
            units = base_names if name == BASE else ()
            found = [_arrays(each, name, units) for each in of_steps]
            # Of one layout, which has an order: that of what is out, or of the last step.
            layout = _checked(sent, name, found[-1]) if sent else Layout.of(found[-1])
            arrays = [{path: each[path] for path in layout.shapes} for each in found]
            encodings = [
                _encodings(each, bits[step], step, arrays[-1]) for step, each in enumerate(arrays)
            ]
            if sent is None:
                contents = encode_chain(arrays, encodings)
            else:
                contents = _onto(sent[name], arrays, encodings)
            self.contents[name] = tuple(contents)
            self._layouts[name] = layout
            steps = [read(contents[0], self._layouts[name])]
            for content in contents[1:]:
                steps.append(refine(steps[-1], content))
            prefix = "" if name == BASE else f"{name}/"
            self._trees[name] = tuple(tree_of(prefix, step.arrays()) for step in steps)

    def variables(self, steps: Mapping[str, int]) -> dict[str, Any]:
        """Returns the network's variables, float32, of the shape of before.

        Args:
          steps: segment -> its step, from 0; those that it lacks are at their first.
        """
        result: dict[str, Any] = {}
        for name in self.names:
            for collection, units in self._trees[name][steps.get(name, 0)].items():
                result.setdefault(collection, {}).update(units)
        return result

    def segment(self, name: str, step: int) -> str:
        """Returns what a bundle calls the segment of a step."""
        return name if step == 0 else f"{name}.{self.bits[step]}"

    def size_bytes(self, name: str, step: int) -> int:
        """Returns the bytes of a step on the wire."""
        return len(self.contents[name][step])

    def piece(self, name: str, step: int) -> Piece:
        """Returns a step as `write_bundle` takes it."""
        return Piece(name, self.bits[step], self._layouts[name], self.contents[name][step])


def with_measured_norms(
    variables: Mapping[str, Any],
    renew: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    base_names: Sequence[str],
    block_names: Sequence[str],
    bits: Sequence[int],
    sent: Mapping[str, Sequence[Piece]] | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> Chains:
    """Returns the segments of a network whose few bits have norms that were measured for them.

    Rounded weights make features of another mean and variance than those that a norm was trained
    for. In 8 bits and more that is less than what measuring is off by.

    Args:
      variables: of the network as it was trained, not folded; unchanged.
      renew: returns variables with the statistics that the norms of these see, all else the same.
      base_names: as in `Chains`.
      block_names: as in `Chains`.
      bits: as in `Chains`.
      sent: as in `Chains`, with norms of its own: this network was trained within its levels
        (``config.train.within_bits``).
      sizes: of the network's kernels, where there is `sent`; see `fold_norms`.
    """
    cut = functools.partial(Chains, base_names=base_names, block_names=block_names)
    folded = fold_norms(variables, sizes)
    norms: dict[int, Any] = {}
    there = len(next(iter(sent.values()))) if sent else 0
    for step, each in enumerate(bits):
        if each >= MANY_BITS or step < there:
            continue
        if sent:
            rounded = cut(folded, bits=bits[: step + 1], sent=sent)
        else:
            rounded = cut(folded, bits=bits[step:])
        # Of `sent`, the last of these steps; else the first.
        coarse = rounded.variables(dict.fromkeys(rounded.names, step if sent else 0))
        measured = renew(norms_to_measure(variables, coarse, signed=not sent))
        norms[step] = unit_norms(measured, folded)
    return cut(folded, bits=bits, norms=norms, sent=sent)


def _checked(
    sent: Mapping[str, Sequence[Piece]], name: str, arrays: Mapping[str, np.ndarray]
) -> Layout:
    """The layout of what is out of a unit, which is that of these arrays."""
    if name not in sent or sent[name][0].layout != Layout.of(arrays):
        raise BundleError(
            f"what is out has another {name!r} than this network; give the bundle that the run "
            "began with"
        )
    return sent[name][0].layout


def _onto(
    sent: Sequence[Piece],
    arrays: Sequence[Mapping[str, np.ndarray]],
    encodings: Sequence[Mapping[str, str]],
) -> list[bytes]:
    """What is out of a unit, and the refinements of it: bytes of each step."""
    out = held(sent)
    new: list[dict[str, np.ndarray]] = []
    later: list[dict[str, str]] = []
    known, before = out.encodings, out.arrays()
    for chosen, each in zip(encodings[len(sent) :], arrays[len(sent) :], strict=True):
        now, those = dict(chosen), dict(each)
        for array, encoding in chosen.items():
            is_kernel = each[array].ndim > 1
            if is_kernel and encoding == known[array]:
                # In as many bits as this step has, or more. Its size may have cost a last digit.
                if np.allclose(each[array], before[array], rtol=1e-5, atol=0):
                    those[array] = before[array]
            # A kernel is the same in all later steps, and refined in each.
            elif np.array_equal(each[array], before[array]) and not (is_kernel and later):
                now[array] = known[array]
            elif encoding == known[array]:
                now[array] = _OTHERWISE.get(encoding, encoding)
        new.append(those)
        later.append(now)
        known, before = now, those
    return [*(piece.content for piece in sent), *encode_onto(out, new, later)]


def _arrays(variables: Mapping[str, Any], name: str, units: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a segment: those of its unit, or of the units that are one segment."""
    if not units:
        return tensors_of_unit(variables, name)
    return {
        f"{unit}/{path}": array
        for unit in units
        for path, array in tensors_of_unit(variables, unit).items()
    }


def _encodings(
    arrays: Mapping[str, np.ndarray], bits: int, step: int, last: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """How each array is sent in a step.

    What differs from the last step is sent in integers, of fewer bits in each step: a refinement
    sends anew what has another encoding than before, and takes more bits for those of before. Small
    kernels have 8 bits from the first step on, and are not sent again.
    """
    chosen = encodings_for(arrays, bits)
    weights = sum(array.size for array in arrays.values() if array.ndim > 1)
    small = {
        name: array
        for name, array in arrays.items()
        if array.ndim > 1 and array.size < _SMALL * weights
    }
    chosen |= encodings_for(small, max(bits, MANY_BITS))
    for name, array in arrays.items():
        if array.ndim < 2 and not np.array_equal(array, last[name]):
            chosen[name] = f"int{_NORM_BITS - step}"
    return chosen
