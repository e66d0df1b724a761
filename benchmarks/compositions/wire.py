"""Arrays as the bytes of a segment, and what a device decodes of them at each step of precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.encodings.chain import encode_chain
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import (
    encodings_for,
    read,
    refine,
)
from benchmarks.compositions.forms import flatten, unflatten

Arrays = Mapping[str, np.ndarray]


def through(arrays: Arrays, bits: Mapping[str, Sequence[int]]) -> list[tuple[int, dict[str, Any]]]:
    """Returns a segment after each step of its precision: its bytes, and its arrays as decoded.

    Args:
      arrays: name -> float32 array.
      bits: name -> bits a weight in each step, equally many of each; the numbers that a step adds
        are a refinement of the one before.

    Returns:
      A step's own bytes, and all arrays after it.
    """
    count = len(next(iter(bits.values())))
    encodings = [
        {name: encodings_for({name: x}, bits[name][step])[name] for name, x in arrays.items()}
        for step in range(count)
    ]
    contents = encode_chain(arrays, encodings)
    held = read(contents[0], Layout.of(arrays))
    found = [(len(contents[0]), held.arrays())]
    for content in contents[1:]:
        held = refine(held, content)
        found.append((len(content), held.arrays()))
    return found


def to_arrays(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns a network's arrays by ``collection:unit/path``; `to_variables` is the inverse."""
    return {
        f"{collection}:{path}": np.asarray(x)
        for collection, tree in variables.items()
        for path, x in flatten(tree).items()
    }


def to_variables(arrays: Arrays) -> dict[str, Any]:
    """Returns the variables of a network; `to_arrays` is the inverse."""
    collections: dict[str, dict[str, Any]] = {}
    for name, x in arrays.items():
        collection, _, path = name.partition(":")
        collections.setdefault(collection, {})[path] = x
    return {collection: unflatten(flat) for collection, flat in collections.items()}


def path_of(name: str) -> str:
    """Returns the path in ``collection:path``."""
    return name.partition(":")[2]


def unit_of(name: str) -> str:
    """Returns the unit in ``collection:unit/path``."""
    return path_of(name).partition("/")[0]
