"""What the other rooms ask of a network, and the check that a family gives it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from accordion_jax.depth import SkipMask

# Fields of a module that say how it runs, not what it is: a family may have them or not. Without
# one, only its default can be asked for.
ABILITIES: Mapping[str, tuple[Any, str]] = {
    "dtype": ("float32", "computes in another type than float32 (config.model.dtype)"),
    "axis_name": (None, "normalises over all devices (config.model.cross_replica_batch_norm)"),
    "scan_stages": (False, "runs the blocks of a stage in a loop (config.run.scan_stages)"),
}


@runtime_checkable
class Network(Protocol):
    """A Linen module whose blocks can be skipped by a static mask.

    Its variables are collections (``params``, and ``batch_stats`` where it has any) of one sub-tree
    a *unit*: those of the base, and one a block.

    Attributes:
      num_classes: between which an answer decides.
      base_names: units that every configuration keeps, such as ("stem", "head").
    """

    num_classes: int
    base_names: tuple[str, ...]

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Blocks a stage; one number where there are no stages."""

    @property
    def block_names(self) -> tuple[str, ...]:
        """Units of the blocks, in the order of the forward pass."""

    def __call__(
        self, inputs: Any, *, skip_mask: SkipMask | None = None, train: bool = False
    ) -> Any:
        """Returns the outputs without the skipped blocks: [batch, ..., num_classes] float32."""

    def truncations(
        self, inputs: Any, *, skip_masks: tuple[SkipMask, ...], train: bool = False
    ) -> Any:
        """Returns the outputs of many masks, [masks, batch, ..., num_classes] float32.

        What masks have in common is computed once: `prefixes.walk` does that.
        """

    def unit_macs(self, shape: Any) -> dict[str, int]:
        """Returns multiply-accumulates of each unit, for one example.

        Args:
          shape: of one prepared example, or a tree of shapes.
        """

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Linen's."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Linen's."""


def check(model: Network, family: str) -> Network:
    """Returns the model, if it gives what a network must.

    Raises:
      TypeError: something is missing, or names clash; says what.
    """
    missing = [
        name
        for name in (
            *("num_classes", "base_names", "stage_sizes", "block_names"),
            *("truncations", "unit_macs", "init", "apply"),
        )
        if not hasattr(model, name)
    ]
    if missing:
        raise TypeError(
            f"model family {family!r} lacks {', '.join(missing)}; models/contract.py says what a "
            "family gives"
        )
    units = [*model.base_names, *model.block_names]
    if len(set(units)) < len(units):
        raise TypeError(f"model family {family!r} has two units of one name: {units}")
    if len(model.block_names) != sum(model.stage_sizes):
        raise TypeError(
            f"model family {family!r} names {len(model.block_names)} blocks; stage_sizes="
            f"{model.stage_sizes} has {sum(model.stage_sizes)}"
        )
    return model


def kept_units(model: Network, skip_mask: SkipMask) -> tuple[str, ...]:
    """Returns the names of the units that a skip mask keeps: the base and the kept blocks."""
    kept = (name for name, skip in zip(model.block_names, skip_mask, strict=True) if not skip)
    return (*model.base_names, *kept)


def fields_of(cls: type) -> tuple[str, ...]:
    """Returns the fields of a family that a description may set; abilities are not among them."""
    linen = {"parent", "name"}
    return tuple(
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in linen and field.name not in ABILITIES
    )
