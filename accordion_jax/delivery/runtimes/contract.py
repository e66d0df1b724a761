"""What a file of this room gives: one way to run a model."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.tasks import Task


class Model(Protocol):
    """The model of one manifest, of which any configuration can be made to run.

    Its methods may be called in several threads at once.

    Attributes:
      kinds: of tasks that it takes; None takes each that `accordion_jax.tasks` knows.
      task: prepares what it is given; as in its constructor.
    """

    kinds: ClassVar[frozenset[str] | None]
    task: Task

    def __init__(self, manifest: Manifest, task: Task):
        """Reads the description in ``manifest.model``.

        Raises:
          ValueError: it makes no model; names what is wrong.
        """

    def load(self, name: str, content: bytes, refined: Any = None) -> Any:
        """Returns a segment in the form that `compile` takes.

        Args:
          name: of the segment.
          content: its bytes. Their digest was checked; what they say was not.
          refined: what `load` returned for the segment that this one refines; stays as it is. None
            where it refines none.

        Raises:
          DeliveryError: they are not of this model; says why.
        """

    def compile(
        self, configuration: Configuration, segments: Sequence[Any], batch_size: int
    ) -> Callable[[Any], np.ndarray]:
        """Returns the function from a batch to its outputs; it must not change later.

        Args:
          configuration: to run.
          segments: what `load` returned for its segments, one a unit, in the order of the units: a
            refinement is there in place of what it refines (`Manifest.finest`).
          batch_size: of the inputs it will be given, after ``task.prepare``.

        Raises:
          DeliveryError: the segments make no such configuration; says why.
        """
