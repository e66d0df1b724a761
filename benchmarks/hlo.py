"""What a compiled program launches, and of which kind each operation is: read from its HLO text.

XLA's text names every instruction, and (`metadata={op_name=...}`) the JAX operation that it came
from: ``jit(_fun)/transpose(jvp(ResNet))/.../stage1_block01/conv1/conv_general_dilated`` is a
gradient of that convolution. A trace of the profiler names the same instructions.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping

FORWARD = "convolution, forward"
INPUT_GRADIENT = "convolution, input gradient"
WEIGHT_GRADIENT = "convolution, weight gradient"
NORM = "batch norm, ReLU, shortcuts"
COPY = "copies, transposes, fills"
DOT = "matrix products"
ALL_REDUCE = "all-reduce"
OTHER = "loss, update, crops, the rest"
UNKNOWN = "not attributed"
KINDS = (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, NORM, COPY, DOT, ALL_REDUCE, OTHER, UNKNOWN)

# They name a value, or wait for one; nothing runs.
_NAMES_ONLY = {
    "add-dependency",
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
_CONTAINERS = {"call", "conditional", "while"}
_MOVES = {
    *("broadcast", "concatenate", "copy", "copy-start", "dynamic-slice", "dynamic-update-slice"),
    *("pad", "reshape", "reverse", "slice", "transpose"),
}
_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-", "reduce-scatter")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IN_MODEL = re.compile(r"jvp\([A-Za-z_]\w*\)")  # jvp(ResNet), but neither jvp() nor jvp(jit(...))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of an HLO computation.

    Attributes:
      name: as the profiler gives it, such as ``convolution.4``.
      opcode: such as ``fusion``.
      text: what follows the opcode: operands and attributes.
    """

    name: str
    opcode: str
    text: str

    @property
    def op_name(self) -> str:
        """The JAX operation that it came from; empty where XLA does not say."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found.group(1) if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs, or is made of."""
        names = _CALLED.findall(self.text)
        for branches in _BRANCHES.findall(self.text):
            names += [name.strip().lstrip("%") for name in branches.split(",")]
        return tuple(names)

    @property
    def is_container(self) -> bool:
        """Whether it is there only to run the instructions of other computations."""
        # XLA on CPU compiles a "small call" whole, as one operation.
        return self.opcode in _CONTAINERS and 'xla_cpu_small_call="true"' not in self.text

    @property
    def window(self) -> str:
        """Size of a convolution's window, such as ``3x3``; empty for other instructions."""
        found = re.search(r"window=\{size=([\dx]+)", self.text)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      name: of its module, as the profiler gives it.
      entry: name of the computation that is run.
      computations: name -> instructions.
    """

    name: str
    entry: str
    computations: Mapping[str, tuple[Instruction, ...]]

    def launched(self) -> Iterator[tuple[Instruction, int]]:
        """Yields each instruction that runs, and how often in one execution.

        Fusions, convolutions, custom calls, copies, collectives and what else is not merely a name;
        those within calls (on GPUs: command buffers), loops and branches in place of these. A loop
        whose trip count XLA does not know counts once, and each branch of a conditional once.
        """
        yield from self._launched(self.entry, 1)

    def _launched(self, computation: str, times: int) -> Iterator[tuple[Instruction, int]]:
        for instruction in self.computations.get(computation, ()):
            opcode = instruction.opcode
            if instruction.is_container:
                trips = _TRIPS.search(instruction.text) if opcode == "while" else None
                inner = times * int(trips.group(1)) if trips else times
                for name in instruction.called:
                    yield from self._launched(name, inner)
            elif opcode not in _NAMES_ONLY and not opcode.endswith("-done"):
                yield instruction, times

    def launches(self) -> int:
        """Returns how many operations one execution launches."""
        return sum(times for _, times in self.launched())

    def counts(self) -> collections.Counter[str]:
        """Returns how many operations of each opcode one execution launches."""
        counts: collections.Counter[str] = collections.Counter()
        for instruction, times in self.launched():
            counts[instruction.opcode] += times
        return counts

    def kinds(self) -> dict[str, str]:
        """Returns the kind of each instruction that a trace may name: one of `KINDS`.

        A fusion with a convolution is of the convolution's kind, with all that was fused to it. A
        gradient with respect to the weights slides one whole feature map over another, so its
        window is not that of any forward convolution (unless XLA swaps the two, which it was seen
        to do where a map is smaller than the kernel); custom calls of cuDNN say which they are.
        Where neither tells, a convolution is `UNKNOWN`.
        """
        everything = [each for body in self.computations.values() for each in body]
        windows = {
            each.window
            for each in everything
            if each.opcode == "convolution" and _is_forward(each.op_name)
        }
        return {each.name: self._kind(each, windows) for each in everything}

    def containers(self) -> frozenset[str]:
        """Returns the names of the instructions that only run others."""
        bodies = self.computations.values()
        return frozenset(each.name for body in bodies for each in body if each.is_container)

    def _kind(self, instruction: Instruction, windows: set[str]) -> str:
        opcode = instruction.opcode
        if opcode.startswith(_COLLECTIVES):
            return ALL_REDUCE
        parts = [instruction, *self._parts(instruction)]
        for part in parts:
            if part.opcode == "convolution" or "__cudnn$conv" in part.text:
                return _convolution_kind(part, part.op_name or instruction.op_name, windows)
        opcodes = {part.opcode for part in parts[1:]} or {opcode}
        if (opcode == "fusion" and opcodes - _NAMES_ONLY <= _MOVES) or opcode in _MOVES:
            return COPY
        if "dot" in opcodes or "__cublas" in instruction.text:
            return DOT
        # A fusion does not always carry a name; most of what it is made of then tells.
        names = [instruction.op_name] if instruction.op_name else [part.op_name for part in parts]
        names = [name for name in names if name]
        inside = sum(bool(_IN_MODEL.search(name)) for name in names)
        return NORM if 2 * inside > len(names) else OTHER

    def _parts(self, instruction: Instruction) -> Iterator[Instruction]:
        if instruction.opcode in {"fusion", "async-start", "call"}:
            for name in instruction.called:
                for part in self.computations.get(name, ()):
                    yield part
                    yield from self._parts(part)


def _is_forward(op_name: str) -> bool:
    return "jvp(" in op_name and "transpose(" not in op_name


def _convolution_kind(instruction: Instruction, op_name: str, windows: set[str]) -> str:
    if "convBackwardFilter" in instruction.text:
        return WEIGHT_GRADIENT
    if "convBackwardInput" in instruction.text:
        return INPUT_GRADIENT
    if _is_forward(op_name):
        return FORWARD
    if instruction.window and windows and instruction.window not in windows:
        return WEIGHT_GRADIENT
    return INPUT_GRADIENT if windows and "transpose(" in op_name else UNKNOWN


def parse(text: str | None) -> Program:
    """Returns the program of an HLO module's text, as `jax.stages.Compiled.as_text` gives it.

    Raises:
      ValueError: there is no entry computation in it.
    """
    text = text or ""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            name, rest = found.groups()
            opcode, _, operands = rest[_type_length(rest) :].lstrip().partition("(")
            current.append(Instruction(name, opcode, operands))
    if not entry:
        raise ValueError(f"no ENTRY computation in a text of {len(text)} characters: is it HLO?")
    module = re.match(r"HloModule ([\w.\-]+)", text)
    bodies = {name: tuple(body) for name, body in computations.items()}
    return Program(module.group(1) if module else "", entry, bodies)


def _type_length(text: str) -> int:
    """Length of the type that an instruction's definition opens with; tuples nest."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "({[") - (character in ")}]")
        if depth == 0 and character == " ":
            return i
    return len(text)
