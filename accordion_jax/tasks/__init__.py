"""Tasks: what an example is, how it is prepared, the loss, and when an answer is wrong.

A new task is one file here, with a class that follows `contract.Task`, and an entry in ``KINDS``.
No JAX is loaded before a step is traced, so that a device without it prepares its inputs by the
same rule.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from accordion_jax.tasks.contract import Spec, Task
from accordion_jax.tasks.features import Features
from accordion_jax.tasks.images import Images

KINDS: dict[str, Any] = {"images": Images, "features": Features}


def describe(task: Task) -> dict[str, Any]:
    """Returns what `from_description` needs to make the same task again: a manifest's ``input``."""
    return {"kind": task.kind, **task.describe()}


def from_description(description: Mapping[str, Any]) -> Task:
    """Returns the task of a manifest's ``input``.

    Descriptions from before there were kinds are of images: they have shape, mean and std alone.

    Raises:
      ValueError: the kind is not known, or a field is missing or wrong; names it.
    """
    kind = description.get("kind")
    if kind is None and description.keys() == {"shape", "mean", "std"}:
        kind = "images"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"input of kind {kind!r} is not known here; known: {', '.join(sorted(KINDS))}"
        )
    return KINDS[kind].from_description(description)


def augmentation_fields(task: Task) -> tuple[str, ...]:
    """Returns the names of the fields that a task's `with_augmentation` takes."""
    return tuple(inspect.signature(task.with_augmentation).parameters)


__all__ = [
    "KINDS",
    "Features",
    "Images",
    "Spec",
    "Task",
    "augmentation_fields",
    "describe",
    "from_description",
]
