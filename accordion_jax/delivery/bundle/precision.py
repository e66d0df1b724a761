"""A network's variables at so many bits a unit, and what they weigh: what a sending order is found
with. NumPy only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.cutting import COLLECTIONS, tensors_of_unit
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import (
    encode_chain,
    encodings_for,
    read,
    refine,
)


def at_bits(
    variables: Mapping[str, Any],
    bits: Mapping[str, int | Sequence[int]],
    *,
    base_names: Sequence[str],
    received: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Returns a network's variables as a device holds them, and the exact bytes on the wire.

    They go through the bytes that are sent: what is returned is what a device decodes.

    Args:
      variables: ``{"params": {unit: tree}, "batch_stats": {unit: tree}}``; unchanged.
      bits: unit -> bits a weight (1 to 8, 16 or 32; see `encodings_for`); or the steps that lead
        there, coarse to fine, as ``(4, 8)``: a segment of 4 bits, and the refinement to 8. Units
        that it lacks are not sent, and keep their values.
      base_names: units that are one segment, ``base``; they have equally many steps.
      received: segment -> how many of its steps have come, at least one; all of those that it
        lacks. With ``(4, 8)`` and 1, the variables are those of the 4 bits.

    Returns:
      Variables of the shape of before, float32; and segment -> its bytes, one number a step.

    Raises:
      BundleError: there are no such bits, or an array cannot be encoded.
      ValueError: a unit is not there or has no steps, or those of the base have different numbers
        of them.
    """
    steps = {unit: (each,) if isinstance(each, int) else tuple(each) for unit, each in bits.items()}
    base = [unit for unit in base_names if unit in steps]
    segments = [("base", base)] if base else []
    segments += [(unit, [unit]) for unit in steps if unit not in base]
    result = {
        collection: {unit: dict(tree) for unit, tree in units.items()}
        for collection, units in variables.items()
    }
    sizes = {}
    for segment, units in segments:
        counts = {unit: len(steps[unit]) for unit in units}
        if len({*counts.values()}) > 1 or 0 in counts.values():
            raise ValueError(
                f"segment {segment!r} has units of {counts} steps; wanted one or more, and as many "
                "of each"
            )
        arrays, encodings = {}, [{} for _ in steps[units[0]]]  # type: ignore[var-annotated]
        for unit in units:
            tensors = tensors_of_unit(variables, unit)
            arrays |= {f"{unit}/{path}": array for path, array in tensors.items()}
            for step, unit_bits in zip(encodings, steps[unit], strict=True):
                chosen = encodings_for(tensors, unit_bits)
                step.update({f"{unit}/{path}": name for path, name in chosen.items()})
        contents = encode_chain(arrays, encodings)
        held = read(contents[0], Layout.of(arrays))
        for content in contents[1 : (received or {}).get(segment, len(contents))]:
            held = refine(held, content)
        for path, array in held.arrays().items():
            _put(result, path, array)
        sizes[segment] = tuple(map(len, contents))
    return result, sizes


def _put(variables: dict[str, Any], path: str, array: np.ndarray) -> None:
    """Replaces an array; the trees on its way are copies of our own afterwards."""
    *parts, last = path.split("/")
    collection = next((c for c, ends in COLLECTIONS.items() if last in ends), "params")
    node = variables[collection]
    for part in parts:
        node[part] = dict(node[part])
        node = node[part]
    node[last] = array
