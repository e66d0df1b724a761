"""Ladders: the ordered configurations of a scheme, from the smallest to the full model.

A model is a sequence of equal blocks in stages. A *skip mask* says which blocks are skipped; a
*configuration* is a skip mask with a name; a *ladder* is a sequence of configurations in which each
keeps every block of the one before it. That nesting is what lets a device grow a model by fetching
only what is missing.

The schemes are those of Ayed et al., *Accordion: A Communication-Aware Machine Learning Framework
for Next Generation Networks*. A new scheme is one function here and one entry in ``SCHEMES``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

SkipMask = tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A named skip mask.

    Attributes:
      name: unique within its ladder, for instance ``coml-27``.
      skip_mask: one bool a block, in the order of the forward pass; True skips the block.
    """

    name: str
    skip_mask: SkipMask

    @property
    def blocks(self) -> tuple[int, ...]:
        """Indices of the kept blocks, in the order of the forward pass."""
        return tuple(i for i, skip in enumerate(self.skip_mask) if not skip)

    @property
    def after_a_gap(self) -> tuple[int, ...]:
        """Indices of the kept blocks that come after a skipped one.

        These see other inputs than in the full model; in a prefix there are none.
        """
        return tuple(i for i in self.blocks if any(self.skip_mask[:i]))

    @property
    def depth(self) -> int:
        """How many blocks are kept."""
        return len(self.skip_mask) - sum(self.skip_mask)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Nested configurations of one model, from the smallest to the full model.

    Attributes:
      scheme: key of ``SCHEMES``, or any other name.
      stage_sizes: blocks a stage.
      configurations: each keeps all blocks of the one before it, and at least one more.

    Raises:
      ValueError: a mask has the wrong length, configurations are not nested, names repeat, or the
        last configuration skips a block; names the configuration.
    """

    scheme: str
    stage_sizes: tuple[int, ...]
    configurations: tuple[Configuration, ...]

    def __post_init__(self):
        if not self.configurations:
            raise ValueError("a ladder needs at least one configuration; got none")
        total = sum(self.stage_sizes)
        for configuration in self.configurations:
            if len(configuration.skip_mask) != total:
                raise ValueError(
                    f"configuration {configuration.name!r} has a skip mask of "
                    f"{len(configuration.skip_mask)} blocks; stage_sizes={self.stage_sizes} has "
                    f"{total}"
                )
        names = [configuration.name for configuration in self.configurations]
        if len(set(names)) != len(names):
            raise ValueError(f"configuration names must be unique; got {names}")
        for small, large in itertools.pairwise(self.configurations):
            if not set(small.blocks) < set(large.blocks):
                raise ValueError(
                    f"configuration {large.name!r} must keep every block of {small.name!r} and at "
                    f"least one more; it keeps {large.blocks}, not all of {small.blocks}"
                )
        if any(self.full.skip_mask):
            raise ValueError(
                f"the last configuration, {self.full.name!r}, must keep all {total} blocks; it "
                f"keeps {self.full.depth}"
            )

    def __len__(self) -> int:
        return len(self.configurations)

    def __getitem__(self, index: int) -> Configuration:
        return self.configurations[index]

    def __iter__(self) -> Iterator[Configuration]:
        return iter(self.configurations)

    @property
    def full(self) -> Configuration:
        """The configuration that keeps every block."""
        return self.configurations[-1]

    @property
    def skip_masks(self) -> tuple[SkipMask, ...]:
        """The skip mask of each configuration."""
        return tuple(configuration.skip_mask for configuration in self.configurations)

    @property
    def has_prefixes_alone(self) -> bool:
        """Whether each configuration keeps the first of all blocks, in the forward order.

        A block then sees the same features in each configuration that keeps it.
        """
        return not any(each.after_a_gap for each in self)

    @property
    def sending_order(self) -> tuple[int, ...]:
        """Every block once, in the order in which the ladder's configurations need them."""
        order = dict.fromkeys(
            block for configuration in self.configurations for block in configuration.blocks
        )
        return tuple(order)

    def stage_blocks(self, configuration: Configuration) -> tuple[int, ...]:
        """Kept blocks a stage, for instance ``(18, 9, 0)``."""
        ends = itertools.accumulate(self.stage_sizes, initial=0)
        return tuple(
            sum(not skip for skip in configuration.skip_mask[start:end])
            for start, end in itertools.pairwise(ends)
        )

    def subset(self, depths: Sequence[int]) -> "Ladder":
        """Returns the ladder of only those configurations whose depth is in `depths`, and the full.

        Raises:
          ValueError: no configuration has such a depth; names it and those there are.
        """
        known = [configuration.depth for configuration in self.configurations]
        unknown = sorted(set(depths) - set(known))
        if unknown:
            raise ValueError(
                f"depth {unknown[0]} is not on the ladder of scheme {self.scheme!r}; "
                f"its depths are {known}"
            )
        wanted = {*depths, self.full.depth}
        return dataclasses.replace(
            self, configurations=tuple(c for c in self.configurations if c.depth in wanted)
        )


def _mask_keeping(stage_sizes: Sequence[int], kept_by_stage: Sequence[int]) -> SkipMask:
    """Skip mask that keeps the first blocks of each stage."""
    return tuple(
        block >= kept
        for size, kept in zip(stage_sizes, kept_by_stage, strict=True)
        for block in range(size)
    )


def _prefixes(scheme: str, stage_sizes: tuple[int, ...]) -> Ladder:
    """Skips from the right: the last stage from its end, then the one before it, and so on."""
    total = sum(stage_sizes)
    return Ladder(
        scheme,
        stage_sizes,
        tuple(
            Configuration(f"{scheme}-{depth}", tuple(block >= depth for block in range(total)))
            for depth in range(total + 1)
        ),
    )


def _every_stage(scheme: str, stage_sizes: tuple[int, ...]) -> Ladder:
    """Keeps the first k blocks of every stage (all of a stage that has fewer)."""
    return Ladder(
        scheme,
        stage_sizes,
        tuple(
            Configuration(
                f"{scheme}-{k}", _mask_keeping(stage_sizes, [min(k, size) for size in stage_sizes])
            )
            for k in range(max(stage_sizes) + 1)
        ),
    )


# A scheme of the paper -> the ladder of its configurations. All three begin with the base alone.
SCHEMES: dict[str, Callable[[str, tuple[int, ...]], Ladder]] = {
    "resnet": _prefixes,
    "coml": _prefixes,
    "blockcoml": _every_stage,
}


def make_ladder(scheme: str, stage_sizes: Sequence[int]) -> Ladder:
    """Returns the ladder of a scheme for a model with `stage_sizes` blocks a stage.

    ``resnet`` and ``coml`` keep the first k of all blocks, k = 0 .. sum(stage_sizes); ``blockcoml``
    keeps the first k blocks of every stage, k = 0 .. max(stage_sizes). k = 0 is the base (stem and
    head) alone, which a device can run while the first block is on its way.

    Raises:
      ValueError: the scheme is unknown, or a stage has no block; names the value.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r} is not known; choose one of {sorted(SCHEMES)}")
    if not stage_sizes or min(stage_sizes) < 1:
        raise ValueError(f"stage_sizes={tuple(stage_sizes)}: every stage needs at least one block")
    return SCHEMES[scheme](scheme, tuple(stage_sizes))
