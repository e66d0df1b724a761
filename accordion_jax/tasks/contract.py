"""What the other rooms ask of a task."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape and type of one array of one example, without the axis of examples.

    Attributes:
      shape: of the array.
      dtype: name of its type, such as "uint8".
    """

    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class Task(Protocol):
    """What an example is, how it is prepared, and when an answer to it is wrong.

    Arrays are NumPy's on a device, and JAX's (or tracers) in a compiled step: `check` and `prepare`
    are one rule for both. `draw`, `augment`, `loss` and `distillation_loss` are for training; they
    alone may import JAX, inside.

    Attributes:
      kind: key of ``tasks.KINDS``; what a manifest calls it.
      inputs: a `Spec`, or a tree of them: one example as it lies in a data set.
      input_name: of the inputs in a file of arrays, and in messages: "images".
      target_name: of the targets, likewise: "labels".
      example_name: one of them, in words: "image".
      error_name: what the share of wrong answers is called: "top-1 error".
    """

    kind: ClassVar[str]
    input_name: ClassVar[str]
    target_name: ClassVar[str]
    example_name: ClassVar[str]
    error_name: ClassVar[str]

    @property
    def inputs(self) -> Any:
        """As the attribute."""

    def describe(self) -> dict[str, Any]:
        """Returns what `from_description` needs, but for the kind; JSON-able."""

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Task":
        """Returns the task that `describe` described.

        Raises:
          ValueError: a field is missing or wrong; names it.
        """

    def check(self, inputs: Any) -> None:
        """Refuses what are no inputs of this task.

        Args:
          inputs: [batch, ...], a tree like `inputs`.

        Raises:
          ValueError: says what was given and what is wanted.
        """

    def prepare(self, inputs: Any) -> Any:
        """Returns what the network takes: [batch, ...], a tree of floats or integers."""

    def with_augmentation(self, *args: Any, **kwargs: Any) -> "Task":
        """Returns this task with its augmentation set, from fields of ``config.data``."""

    def draw(self, key: Any, batch: int) -> Any:
        """Returns what `augment` needs at random, for a whole batch: a tree of [batch, ...].

        Apart from `augment`, so that each device can draw for the whole batch and keep its part.
        """

    def augment(self, inputs: Any, drawn: Any) -> Any:
        """Returns the inputs as they are trained on, before `prepare`."""

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Returns [...] float32, the loss in nats of each answer; [...] is the targets' shape."""

    def distillation_loss(self, outputs: Any, teacher: Any, temperature: float) -> Any:
        """Returns [...] float32, how far answers are from those of a teacher, as `loss`."""

    def wrong(self, outputs: Any, targets: Any) -> Any:
        """Returns [...] bool, which answers are wrong; [...] is the targets' shape."""
