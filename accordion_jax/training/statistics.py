"""Running statistics of batch norms, measured anew after training.

A network whose weights were rounded, pruned or factored has other features than the one whose
statistics it holds: new ones mend much of that (Sun et al. 2019, arXiv:1812.00332, for quantised
networks). And all configurations of a run share the statistics of a block: where it sees other
inputs in another configuration, as in BlockCoML, those of one are not those of the mean of all (Yu
et al. 2019, arXiv:1812.08928, keep a set for each; Yu and Huang 2019, arXiv:1903.05134, measure
them after training, as here).
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax import data, models, tasks
from accordion_jax.depth import SkipMask
from accordion_jax.training.experiment import Experiment, make_experiment
from accordion_jax.training.objective import single
from accordion_jax.training.state import Tree
from accordion_jax.training.trained import Run
from accordion_jax.training.variants import compiler_options

_log = logging.getLogger(__name__)

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
        self._programs: dict[tuple[models.Network, SkipMask | None], Callable[..., Any]] = {}

    def __call__(
        self,
        model: models.Network,
        variables: Mapping[str, Tree],
        skip_mask: SkipMask | None = None,
    ) -> dict[str, Tree]:
        """Returns variables with new statistics, NumPy; all else stays.

        Args:
          model: Linen module, of one device (no `axis_name`).
          variables: {"params": ..., "batch_stats": ...}; unchanged.
          skip_mask: static, of the configuration that is measured; None is the full network. What
            it skips keeps its statistics.
        """
        renewed = self._programs.get((model, skip_mask))
        if renewed is None:
            renewed = jax.jit(
                functools.partial(self._renewed, model, skip_mask),
                compiler_options=compiler_options() or None,
            )
            self._programs[model, skip_mask] = renewed
        held = {name: jax.tree.map(np.asarray, tree) for name, tree in variables.items()}
        order = self._order()
        for step in range(self._steps):
            rows = order[step * self._size : (step + 1) * self._size]
            inputs = jax.tree.map(lambda x, rows=rows: x[rows], self._train.inputs)
            key = jax.random.fold_in(self._key, step)
            held["batch_stats"] = held["batch_stats"] | renewed(held, inputs, key)
        return jax.tree.map(np.asarray, held)

    def _order(self) -> np.ndarray:
        """Rows of all batches: the examples in one order after the other."""
        examples = len(self._train)
        epochs = -(-self._steps * self._size // examples)
        keys = jax.random.split(jax.random.fold_in(self._key, self._steps), epochs)
        return np.concatenate([np.asarray(jax.random.permutation(key, examples)) for key in keys])

    def _renewed(
        self,
        model: models.Network,
        skip_mask: SkipMask | None,
        variables: Any,
        inputs: Any,
        key: jax.Array,
    ) -> Any:
        drawn = self._task.draw(key, self._size)
        prepared = self._task.prepare(self._task.augment(inputs, drawn))
        _, updated = model.apply(
            variables, prepared, skip_mask=skip_mask, train=True, mutable=["batch_stats"]
        )
        return dict(updated["batch_stats"])


def unrounded_statistics(experiment: Experiment, variables: dict[str, Tree]) -> dict[str, Tree]:
    """Returns a run's variables with the statistics that its weights make as they are.

    Where steps round weights (``config.train.bits``), the running statistics are of several
    precisions together, and suit none: of a ResNet-20 in 4 and 32 bits the full depth then erred by
    11.3 %, with its own by 10.3 %. Of other runs, and where the configurations are no prefixes, so
    that a norm sees several things anyway, they stay.

    Args:
      experiment: of the run.
      variables: {"params": ..., "batch_stats": ...} of the run, on the host; unchanged.
    """
    rounds, ladder = experiment.config.train.bits, experiment.ladder
    if not rounds or not variables.get("batch_stats") or not ladder.has_prefixes_alone:
        return variables
    _log.info("measuring on training images what the norms see of weights as they are")
    return renewal(experiment)(on_one_device(experiment), variables)


def as_measured(run: Run) -> Run:
    """Returns a run with the statistics that its table was measured with.

    Its training images are read only where these are not those that training left.
    """
    if not run.config.train.bits:
        return run
    variables = unrounded_statistics(make_experiment(run.config), run.variables)
    return dataclasses.replace(run, variables=variables)


def renewal(experiment: Experiment) -> Renewal:
    """Returns what measures statistics on the training images of a run."""
    return Renewal(experiment.task, experiment.train, seed=experiment.config.seed)


def own_statistics(
    experiment: Experiment, variables: dict[str, Tree], skip_mask: SkipMask, steps: int = STEPS
) -> dict[str, Tree]:
    """Returns the running statistics of a configuration by itself, as `Renewal` measures them.

    Args:
      experiment: of the run.
      variables: {"params": ..., "batch_stats": ...} of the run, on the host.
      skip_mask: static; of the configuration.
      steps: of the run's batch size.

    Returns:
      Unit -> statistics, NumPy, of the kept units that have any.
    """
    config = experiment.config
    renew = Renewal(
        experiment.task,
        experiment.train,
        seed=config.seed,
        steps=steps,
        batch_size=config.train.batch_size,
    )
    found = renew(on_one_device(experiment), variables, skip_mask)["batch_stats"]
    return {unit: found[unit] for unit in experiment.units(single(skip_mask)) if unit in found}


def on_one_device(experiment: Experiment) -> models.Network:
    """Returns a run's network as one device has it: a batch is normalised as a whole."""
    dtype = jnp.dtype(experiment.config.model.dtype)
    return models.build(models.describe(experiment.model), dtype=dtype)
