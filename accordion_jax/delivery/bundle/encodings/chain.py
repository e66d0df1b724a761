"""A segment in steps of bits: the first, and the refinements that add the others.

From fine to coarse, where all steps are made at once (`encode_chain`): each has the levels that are
best for its bits, among those that the next one determines. From coarse to fine, where the first
one is out already (`encode_onto`): each has the levels that are best among those that the one
before it leaves.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from accordion_jax.delivery.bundle.encodings.contract import Tensor
from accordion_jax.delivery.bundle.encodings.integers import Quantised
from accordion_jax.delivery.bundle.encodings.nesting import nested
from accordion_jax.delivery.bundle.encodings.segment import (
    Encoded,
    encode,
    write,
    write_refinement,
)
from accordion_jax.delivery.errors import BundleError


def encode_chain(
    arrays: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
    encodings: Sequence[Mapping[str, str]],
) -> list[bytes]:
    """Returns a segment in few bits, and the refinements that add to it step by step.

    The last step's tensors are those that its encodings give by themselves. The step before is made
    from them, and so on down: each has the levels and scales that are best for its number of bits,
    among those that the next one determines.

    Args:
      arrays: of the segment, float32; or those of each step, where steps differ in what is no
        kernel: that is sent anew, and so has another encoding in the next step.
      encodings: of each step, coarse to fine; see `encodings_for`.

    Raises:
      BundleError: as `encode`, or an array changes from a step to the next with its encoding the
        same, so that it would not be sent.
    """
    each = [arrays] * len(encodings) if isinstance(arrays, Mapping) else list(arrays)
    for i, (old, new) in enumerate(itertools.pairwise(each)):
        for name in old:
            same = encodings[i][name] == encodings[i + 1][name]
            if same and not np.array_equal(old[name], new[name]):
                raise BundleError(_unsent(name, f"step {i}", encodings[i][name]))
    steps: list[Encoded] = []
    for step, of_step in zip(reversed(encodings), reversed(each), strict=True):
        steps.insert(0, encode(of_step, step, steps[0] if steps else None))
    contents = [write(steps[0])]
    for i in range(1, len(steps)):
        sha256 = hashlib.sha256(contents[-1]).hexdigest()
        contents.append(write_refinement(steps[i - 1], steps[i], sha256))
    return contents


def encode_onto(
    first: Encoded,
    arrays: Sequence[Mapping[str, np.ndarray]],
    encodings: Sequence[Mapping[str, str]],
) -> list[bytes]:
    """Returns the refinements that add to a segment that is out already.

    Args:
      first: the segment, as `segment.read` returned it.
      arrays: of the segment, float32, of each step after it.
      encodings: of each of these steps; see `encodings_for`. What is in integers of more bits than
        before is brought to a level that those of before round to.

    Raises:
      BundleError: as `segment.encode` and `nested`, or an array changes with its encoding the same;
        names it.
    """
    contents, held = [], first
    before: Mapping[str, np.ndarray] = first.arrays()
    for of_step, chosen in zip(arrays, encodings, strict=True):
        tensors: dict[str, Tensor] = {}
        for name, old in held.tensors.items():
            if chosen[name] == held.encodings[name]:
                if not np.array_equal(of_step[name], before[name]):
                    raise BundleError(_unsent(name, "what is out", chosen[name]))
                tensors[name] = old
                continue
            bits = int(chosen[name].removeprefix("int")) if chosen[name].startswith("int") else 0
            if isinstance(old, Quantised) and old.bits < bits:
                tensors[name] = nested(of_step[name], old, bits)
            else:
                one = encode({name: of_step[name]}, {name: chosen[name]})
                tensors[name] = one.tensors[name]
        contents.append(write_refinement(held, Encoded(tensors), held.sha256))
        held = Encoded(tensors, hashlib.sha256(contents[-1]).hexdigest())
        before = of_step
    return contents


def _unsent(name: str, where: str, encoding: str) -> str:
    return (
        f"array {name!r} changes from {where} to the next, and is {encoding} in both: give it "
        "another encoding in one of them"
    )
