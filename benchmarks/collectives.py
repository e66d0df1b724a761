"""What a compiled program sends from device to device, read from its own text (HLO)."""

import dataclasses
import math
import re

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "recv",
    "reduce-scatter",
    "send",
)
# The second half of an asynchronous pair ("-done") is another operation's result: not counted.
_OPERATION = re.compile(rf"= (?P<type>.+?) (?P<kind>{'|'.join(_KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\]")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{(?P<members>[\d,]+)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[\d+,(?P<size>\d+)\]<=")
# As JAX 0.12 writes them: the sizes of a mesh's axes, and the axes that a group spans.
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[(?P<mesh>[^\]]*)\] \{(?P<axes>[^}]*)\}")
_AXIS_SIZE = re.compile(r"'(?P<axis>[^']*)'=(?P<size>\d+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
      kind: HLO's name, such as "all-reduce".
      arrays: that it carries at once; XLA combines the all-reduces of several arrays.
      size_bytes: of its result on one device; for an all-reduce that is also what it is given.
      devices: that take part in one group; 0 where the text does not say, which means all.
    """

    kind: str
    arrays: int
    size_bytes: int
    devices: int


def collectives(hlo: str) -> list[Collective]:
    """Returns every operation of a compiled program that sends between devices.

    Args:
      hlo: as `jax.stages.Compiled.as_text` gives it.
    """
    found = []
    for line in hlo.splitlines():
        if not (operation := _OPERATION.search(line)):
            continue
        arrays = [_size_bytes(*array) for array in _ARRAY.findall(operation["type"])]
        found.append(Collective(operation["kind"], len(arrays), sum(arrays), _group_size(line)))
    return found


def _size_bytes(dtype: str, shape: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = int(digits.group()) if digits else 8  # pred is kept a byte each
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8


def _group_size(line: str) -> int:
    if listed := _LISTED_GROUPS.search(line):
        return len(listed["members"].split(","))
    if iota := _IOTA_GROUPS.search(line):
        return int(iota["size"])
    if mesh := _MESH_GROUPS.search(line):
        sizes = {axis: int(size) for axis, size in _AXIS_SIZE.findall(mesh["mesh"])}
        spanned = [axis.strip().strip("'") for axis in mesh["axes"].split(",")]
        return math.prod(sizes[axis] for axis in spanned) if sizes.keys() >= set(spanned) else 0
    return 0
