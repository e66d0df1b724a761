"""In which order the segments of a network are sent, over blocks and over bits. NumPy only.

A *rung* is a model that runs: a configuration of the run's ladder, with a number of bits for each
of its segments. An order is a list of (segment, step): the tensors of a segment in few bits are its
step 0, each refinement is one step more. Every prefix of it that has just the blocks of a
configuration is a rung.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from accordion_jax.delivery.bundle.cutting import BASE
from accordion_jax.depth import Configuration, Ladder

Item = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Rung:
    """A model that runs.

    Attributes:
      configuration: of the run's ladder: which blocks.
      steps: segment -> its step, of the base and all that the configuration keeps.
    """

    configuration: Configuration
    steps: Mapping[str, int]

    def name(self, bits: Sequence[int]) -> str:
        """Returns what a bundle calls it: after its blocks, its bits, and how far they are in.

        ``coml-9.4`` has 4 bits a weight in all of its segments, ``coml-9.8`` has 8, and in
        ``coml-9.4-8.3`` three refinements have come. Where there is one number of bits alone, it is
        left out.

        Args:
          bits: of the steps.
        """
        if len(bits) == 1:
            return self.configuration.name
        least, most = (bits[f(self.steps.values())] for f in (min, max))
        if least == most:
            return f"{self.configuration.name}.{least}"
        return f"{self.configuration.name}.{least}-{most}.{sum(self.steps.values())}"

    @property
    def items(self) -> set[Item]:
        """All that it needs."""
        return {(name, i) for name, step in self.steps.items() for i in range(step + 1)}


def blockwise(ladder: Ladder, block_names: Sequence[str], steps: int) -> list[Item]:
    """Returns the order that sends all blocks in few bits, then all refinements, step by step."""
    names = [BASE, *(block_names[block] for block in ladder.sending_order)]
    return [(name, step) for step in range(steps) for name in names]


def rungs_of(order: Sequence[Item], ladder: Ladder, block_names: Sequence[str]) -> list[Rung]:
    """Returns the rungs of an order, smallest first.

    Args:
      order: of the base and all blocks; a step comes after the one before it.
      ladder: of the run.
      block_names: in the order of the forward pass.
    """
    by_blocks = {
        frozenset(block_names[block] for block in configuration.blocks): configuration
        for configuration in ladder
    }
    held: dict[str, int] = {}
    rungs = []
    for name, step in order:
        held[name] = step
        configuration = by_blocks.get(frozenset(held) - {BASE})
        if configuration is not None and BASE in held:
            rungs.append(Rung(configuration, dict(held)))
    return rungs


def uniform(ladder: Ladder, block_names: Sequence[str], step: int) -> list[Rung]:
    """Returns a rung a configuration, all of it at one step."""
    return [
        Rung(c, dict.fromkeys([BASE, *(block_names[block] for block in c.blocks)], step))
        for c in ladder
    ]


def passes(rungs: Sequence[Rung]) -> Iterator[tuple[dict[str, int], list[Rung]]]:
    """Yields (steps of all segments, rungs) that one pass over the examples can measure.

    A network at these steps, truncated to the configuration of each of these rungs, is that rung:
    truncations share what they have in common, so that they cost one pass, exactly.
    """
    together: list[Rung] = []
    steps: dict[str, int] = {}
    for rung in rungs:
        if any(steps.get(name, step) != step for name, step in rung.steps.items()):
            yield steps, together
            together, steps = [], {}
        steps.update(rung.steps)
        together.append(rung)
    if together:
        yield steps, together
