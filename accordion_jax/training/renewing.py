"""Running statistics of batch norms, measured anew after training.

A network whose weights were rounded, pruned or factored has other features than the one whose
statistics it holds. New ones, from some thousands of training images, mend much of that (Sun et al.
2019, arXiv:1812.00332, for quantised networks).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from accordion_jax import data, models, tasks
from accordion_jax.training.state import Tree
from accordion_jax.training.variants import compiler_options

# What is left of the old statistics is 0.9 to this power: two thousandths.
STEPS = 60
BATCH = 250


class Renewal:
    """Measures the running statistics of a network anew.

    They are of training examples, augmented as in training: the padding of crops is in what the
    norms have learnt, and statistics of images without it are worse than old ones.

    Args:
      task: of the examples, with its augmentation.
      train: to measure on.
      seed: of order and augmentation.
      steps: batches.
      batch_size: examples in each.
    """

    def __init__(
        self,
        task: tasks.Task,
        train: data.Dataset,
        *,
        seed: int = 0,
        steps: int = STEPS,
        batch_size: int = BATCH,
    ):
        self._task, self._train = task, train
        self._key = jax.random.fold_in(jax.random.key(seed), 4)
        self._steps, self._size = steps, min(batch_size, len(train))
        self._programs: dict[models.Network, Callable[..., Any]] = {}

    def __call__(self, model: models.Network, variables: Mapping[str, Tree]) -> dict[str, Tree]:
        """Returns variables with new statistics of the full network, NumPy; all else stays.

        Args:
          model: Linen module.
          variables: {"params": ..., "batch_stats": ...}; unchanged.
        """
        if model not in self._programs:
            self._programs[model] = jax.jit(
                functools.partial(self._renewed, model), compiler_options=compiler_options() or None
            )
        held = {name: jax.tree.map(np.asarray, tree) for name, tree in variables.items()}
        order = self._order()
        for step in range(self._steps):
            rows = order[step * self._size : (step + 1) * self._size]
            inputs = jax.tree.map(lambda x, rows=rows: x[rows], self._train.inputs)
            key = jax.random.fold_in(self._key, step)
            held["batch_stats"] = self._programs[model](held, inputs, key)
        return jax.tree.map(np.asarray, held)

    def _order(self) -> np.ndarray:
        """Rows of all batches: the examples in one order after the other."""
        examples = len(self._train)
        epochs = -(-self._steps * self._size // examples)
        keys = jax.random.split(jax.random.fold_in(self._key, self._steps), epochs)
        return np.concatenate([np.asarray(jax.random.permutation(key, examples)) for key in keys])

    def _renewed(self, model: models.Network, variables: Any, inputs: Any, key: jax.Array) -> Any:
        drawn = self._task.draw(key, self._size)
        prepared = self._task.prepare(self._task.augment(inputs, drawn))
        _, updated = model.apply(variables, prepared, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]
