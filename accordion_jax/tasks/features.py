"""Rows of a table, each a vector of numbers, each of one class."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from accordion_jax.tasks.answers import cross_entropy, not_the_largest, soft_cross_entropy
from accordion_jax.tasks.contract import Spec


@dataclasses.dataclass(frozen=True)
class Features:
    """Classification of vectors of numbers; see `contract.Task`.

    Attributes:
      shape: (features,).
      mean: a feature; empty leaves the numbers as they are, which is all that trees need.
      std: a feature, positive; empty with `mean`.

    Raises:
      ValueError: the fields do not fit together; names them.
    """

    kind: ClassVar[str] = "features"
    input_name: ClassVar[str] = "features"
    target_name: ClassVar[str] = "labels"
    example_name: ClassVar[str] = "row"
    error_name: ClassVar[str] = "top-1 error"

    shape: tuple[int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    loss = staticmethod(cross_entropy)
    distillation_loss = staticmethod(soft_cross_entropy)
    wrong = staticmethod(not_the_largest)

    def __post_init__(self):
        if len(self.shape) != 1 or not isinstance(self.shape[0], int) or self.shape[0] < 1:
            raise ValueError(f"shape={self.shape!r} of features; wanted (how many,)")
        if {len(self.mean), len(self.std)} not in ({0}, {self.shape[0]}):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations for "
                f"{self.shape[0]} features; wanted one of each a feature, or none"
            )
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std={self.std} has a value that is not positive")

    @property
    def inputs(self) -> Spec:
        """A vector."""
        return Spec(self.shape, "float32")

    def describe(self) -> dict[str, Any]:
        """Returns shape, and mean and std where there are any."""
        described: dict[str, Any] = {"shape": list(self.shape)}
        if self.mean:
            described |= {"mean": list(self.mean), "std": list(self.std)}
        return described

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Features":
        """Returns the task of a manifest's ``input``."""
        try:
            shape = tuple(description["shape"])
            mean, std = (tuple(description.get(name, ())) for name in ("mean", "std"))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"input={dict(description)} of features lacks or spoils {error}; wanted shape"
            ) from error
        return cls(shape, mean, std)

    def check(self, inputs: Any) -> None:
        """Refuses all but float32 vectors of this length."""
        if inputs.dtype != np.float32 or tuple(inputs.shape[1:]) != self.shape:
            raise ValueError(
                f"features are {inputs.dtype} of shape {tuple(inputs.shape)}; wanted float32 of "
                f"shape (batch, {self.shape[0]})"
            )

    def prepare(self, inputs: Any) -> Any:
        """Returns (features - mean) / std, [batch, features] float32."""
        self.check(inputs)
        if not self.mean:
            return inputs
        mean, std = (np.asarray(x, np.float32)[None] for x in (self.mean, self.std))
        return (inputs - mean) / std

    def with_augmentation(self) -> "Features":
        """Returns this task: there is nothing to set."""
        return self

    def draw(self, key: Any, batch: int) -> Any:
        """Returns nothing: the numbers are trained on as they are."""
        del key, batch
        return ()

    def augment(self, inputs: Any, drawn: Any) -> Any:
        """Returns the inputs."""
        del drawn
        return inputs
