"""Runs that differ in their seed alone, as one: every array has a leading axis of runs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from accordion_jax import data
from accordion_jax.depth import SkipMask
from accordion_jax.training.experiment import Experiment
from accordion_jax.training.state import Tree


class Together:
    """The parts of a run that depend on how many seeds are trained at once.

    A run alone has no leading axis, so that its programs, and its rounding, are those of a run that
    knows nothing of others.

    Attributes:
      experiments: one a run; they differ in ``config.seed`` alone (`Experiment.with_seed`).
      seeds: one a run.
    """

    def __init__(self, experiments: Sequence[Experiment]):
        """Takes the runs.

        Args:
          experiments: that differ in ``config.seed`` alone.

        Raises:
          ValueError: a seed comes twice, or the runs would draw different depths.
        """
        self.experiments = tuple(experiments)
        self.seeds = tuple(each.config.seed for each in experiments)
        self.key = self.stack([each.key for each in experiments])
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} must differ: each is a run of its own")
        if len({each.depth_seed for each in experiments}) > 1:
            raise ValueError(
                f"seeds {self.seeds} would draw different depths, and so cannot take their steps "
                "at once; set config.policy.seed, for instance to 0, and all draw with that"
            )
        self._split = jax.pmap(self.unstack, axis_name=data.AXIS)

    @property
    def experiment(self) -> Experiment:
        """What they share; its seed is that of the first."""
        return self.experiments[0]

    def stack(self, trees: Sequence[Tree]) -> Tree:
        """Returns the trees of all runs as one, each array with a leading axis of runs."""
        if len(self.seeds) == 1:
            return trees[0]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)

    def unstack(self, tree: Tree) -> list[Tree]:
        """Returns the tree of each run."""
        if len(self.seeds) == 1:
            return [tree]
        return [jax.tree.map(lambda x, run=run: x[run], tree) for run in range(len(self.seeds))]

    def split(self, tree: Tree) -> list[Tree]:
        """Returns the tree of each run, from one whose arrays are on the devices."""
        return [tree] if len(self.seeds) == 1 else data.to_global(self._split(tree))

    def mapped_step(
        self, skip_mask: SkipMask, devices: Sequence[jax.Device] | None = None
    ) -> Callable[..., Any]:
        """The step of a configuration on the devices; it is given its state away (donated).

        Args:
          skip_mask: static; True skips that block.
          devices: that share the batch; all where None.
        """
        count = jax.device_count() if devices is None else len(devices)
        static = {"skip_mask": skip_mask, "devices": count}

        def step(state, order, images, labels, key):
            return self.experiment.step(state, order, images, labels, key, **static)

        if len(self.seeds) > 1:
            step = jax.vmap(step, in_axes=(0, 0, None, None, 0))
        return jax.pmap(step, axis_name=data.AXIS, devices=devices, donate_argnums=0)

    def mapped_epoch_order(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """The order of the epoch of a step's number, given the key too, on all devices."""
        order = self.experiment.epoch_order
        mapped = jax.pmap(order if len(self.seeds) == 1 else jax.vmap(order), axis_name=data.AXIS)
        return lambda step, key: data.to_global(mapped(step, key))
