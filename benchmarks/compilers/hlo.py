"""What a compiled program launches, and what it sends between devices: read from its own text.

XLA's own analyses count arithmetic, bytes and memory, but neither of these two.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_NAMES_ONLY = {  # they name a value; nothing runs
    *("add-dependency", "after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier"),
    *("parameter", "partition-id", "replica-id", "tuple"),
}
_SENDS = {
    *("all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute"),
    *("ragged-all-to-all", "recv", "reduce-scatter", "send"),
}
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
# Of the form: name = type opcode(operands), attributes. A type has no small letter before a "(".
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) ?(?P<opcode>[a-z][a-z0-9\-]*)\((?P<rest>.*)$"
)
_CALLED = re.compile(r"(?:to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(?:pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")

Instruction = tuple[str, str, str]  # type, such as f32[8]{0}; opcode; operands and attributes


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
      kind: HLO's name, such as "all-reduce".
      arrays: that it carries at once; XLA combines the all-reduces of several arrays.
      size_bytes: of its result on one device; for an all-reduce that is also what it is given.
    """

    kind: str
    arrays: int
    size_bytes: int


def launches(text: str) -> int:
    """Returns how many operations one execution of a program launches.

    Fusions, convolutions, custom calls, copies, collectives and what else is not merely a name;
    those within calls (on GPUs: command buffers), loops and branches in place of these. A loop
    whose trip count XLA does not know counts once, and each branch of a conditional once.
    `text` is that of `jax.stages.Compiled.as_text`.
    """
    entry, computations = _parse(text)
    return sum(_launched(entry, computations, 1))


def _launched(
    name: str, computations: Mapping[str, list[Instruction]], times: int
) -> Iterator[int]:
    for _, opcode, rest in computations.get(name, ()):
        # XLA on CPU compiles a "small call" whole, as one operation.
        if opcode in ("call", "conditional", "while") and 'small_call="true"' not in rest:
            trips = _TRIPS.search(rest) if opcode == "while" else None
            branches = ",".join(_BRANCHES.findall(rest)).replace("%", "").split(",")
            for called in (*_CALLED.findall(rest), *map(str.strip, branches)):
                yield from _launched(
                    called, computations, times * int(trips[1]) if trips else times
                )
        # The second half of an asynchronous pair only waits.
        elif opcode not in _NAMES_ONLY and not opcode.endswith("-done"):
            yield times


def collectives(text: str) -> list[Collective]:
    """Returns every operation of a program that sends between devices, those of a loop once."""
    found = []
    _, computations = _parse(text)
    for of_type, opcode, _ in (each for body in computations.values() for each in body):
        if (kind := opcode.removesuffix("-start")) in _SENDS:
            arrays = [
                math.prod(int(n) for n in array["shape"].split(",") if n)
                * (int(array["bits"] or 8) // 8)  # pred is kept a byte each
                for array in _ARRAY.finditer(of_type)
            ]
            found.append(Collective(kind, len(arrays), sum(arrays)))
    return found


def _parse(text: str) -> tuple[str, dict[str, list[Instruction]]]:
    """The name of the computation that is run; and name -> instructions of all."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append((found["type"], found["opcode"], found["rest"]))
    if not entry:
        raise ValueError(f"no ENTRY computation in a text of {len(text)} characters: is it HLO?")
    return entry, computations
