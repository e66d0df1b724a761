"""What a data set is here: arrays in memory, and the task that they are examples of.

CIFAR as uint8 is 150 MB, so a split is read whole, put on the accelerator once, and shuffled and
augmented there; nothing here streams.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from accordion_jax.tasks import Task


class DatasetUnavailableError(RuntimeError):
    """The data set is not prepared where we looked, and could not be prepared there either.

    Its message names the data set, the folder, what failed, and what to do about it.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, whole and in memory.

    The arrays are marked read-only: a test set that something changes in place is hard to notice.

    Attributes:
      name: as given to `load`.
      task: what the examples are.
      inputs: [n, ...], an array or a tree of them, as `task.inputs` says.
      targets: [n, ...] int32, in [0, num_classes): the right answers, one or several an example.
      num_classes: between which an answer decides, whether or not each occurs in this split.

    Raises:
      ValueError: the arrays are not of this task, or do not fit together; names what is wrong.
    """

    name: str
    task: Task
    inputs: Any
    targets: np.ndarray
    num_classes: int

    def __post_init__(self):
        try:
            self.task.check(self.inputs)
        except ValueError as error:
            raise ValueError(f"data set {self.name!r}: {error}") from error
        leaves, structure = jax.tree.flatten(self.inputs)
        targets = self.targets
        if targets.ndim < 1 or targets.dtype != np.int32:
            raise ValueError(
                f"data set {self.name!r}: {self.task.target_name} are {targets.dtype} "
                f"{list(targets.shape)}; wanted int32, one entry an example"
            )
        if any(len(leaf) != len(targets) for leaf in leaves):
            raise ValueError(
                f"data set {self.name!r}: {[len(leaf) for leaf in leaves]} {self.task.input_name} "
                f"for {len(targets)} {self.task.target_name}; wanted as many of each"
            )
        # Views, so that the caller's own arrays stay as writable as they were.
        *leaves, targets = (leaf.view() for leaf in (*leaves, targets))
        for leaf in (*leaves, targets):
            leaf.flags.writeable = False
        object.__setattr__(self, "inputs", jax.tree.unflatten(structure, leaves))
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: np.ndarray) -> "Dataset":
        """Returns the examples that [n] bools or indices pick."""
        inputs = jax.tree.map(lambda leaf: leaf[rows], self.inputs)
        return dataclasses.replace(self, inputs=inputs, targets=self.targets[rows])

    @property
    def rows(self) -> Any:
        """The inputs with each example in a row, [n, numbers], as they lie on the devices.

        TPUs keep an array of four axes with the examples innermost, and would turn all of it round
        in every step to pick a few.
        """
        return jax.tree.map(lambda leaf: leaf.reshape(len(self), -1), self.inputs)


def fixed_permutation(n: int, seed: int) -> np.ndarray:
    """Returns a permutation of range(n), [n] int64, that depends on nothing but (n, seed).

    It sorts the raw output of PCG64. NumPy promises to keep that stream for ever, and does not
    promise it for `Generator.permutation`: a NumPy upgrade must not move the held-out part.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
