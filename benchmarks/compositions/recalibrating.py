"""What can be done to a network without training: its batch norms see again what they normalise.

A network whose weights were rounded, pruned or factored has other features than the one whose
statistics it holds. New ones, from a few thousand training images, mend much of that (Sun et al.
2019, arXiv:1812.00332, for quantised networks).
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from accordion_jax import data, models
from accordion_jax.training import compiler_options


class Recalibration:
    """Renews the running statistics of networks on some images."""

    def __init__(self, dataset: data.Dataset, examples: int = 5000, batch_size: int = 250):
        """Takes the first examples.

        Args:
          dataset: training images; they are not augmented.
          examples: how many of them; statistics are a moving average over their batches.
          batch_size: images at once.
        """
        self._task = dataset.task
        count = min(examples, len(dataset)) // batch_size or 1
        images = dataset.inputs[: count * batch_size]
        self._batches = np.array_split(images, count)
        self._programs: dict[models.Network, Any] = {}

    def __call__(self, model: models.Network, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the variables with new statistics, NumPy arrays.

        Args:
          model: static.
          variables: not folded; unchanged.
        """

        def renew(variables: Any, images: Any) -> Any:
            _, updated = model.apply(
                variables, self._task.prepare(images), train=True, mutable=["batch_stats"]
            )
            return updated["batch_stats"]

        held = {name: jax.tree.map(np.asarray, tree) for name, tree in variables.items()}
        for images in self._batches:
            program = self._programs.get(model)
            if program is None:
                lowered = jax.jit(renew).lower(held, images)
                program = lowered.compile(compiler_options=compiler_options() or None)
                self._programs[model] = program
            held["batch_stats"] = program(held, images)
        return jax.tree.map(np.asarray, held)
