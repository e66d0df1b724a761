"""Runs that differ in their seed alone, as one: every array has a leading axis of runs.

What a state looks like on the devices is known here alone: `Together.place` puts it there,
`Together.mapped_step` takes steps, `Together.split` and `Together.fetch` give back what the model
and checkpoints know.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from accordion_jax import data
from accordion_jax.training import layout
from accordion_jax.training.experiment import Experiment
from accordion_jax.training.objective import Draw
from accordion_jax.training.state import TrainState, Tree


class Together:
    """The parts of a run that depend on how many seeds are trained at once.

    A run alone has no leading axis, so that its programs, and its rounding, are those of a run that
    knows nothing of others.

    Attributes:
      experiments: one a run; they differ in ``config.seed`` alone (`Experiment.with_seed`).
      seeds: one a run.
      kernels: order of the kernels' axes on the devices, of those in `layout`.
    """

    def __init__(self, experiments: Sequence[Experiment], kernels: str = ""):
        """Takes the runs.

        Args:
          experiments: that differ in ``config.seed`` alone.
          kernels: as the attribute; "" for that which the default devices want.

        Raises:
          ValueError: a seed comes twice, or the runs would draw different depths.
        """
        self.experiments = tuple(experiments)
        self.seeds = tuple(each.config.seed for each in experiments)
        dtype = self.experiment.config.model.dtype
        self.kernels = kernels or layout.preferred(jax.devices()[0], dtype)
        self.key = self._stack([each.key for each in experiments])
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} must differ: each is a run of its own")
        if len({each.depth_seed for each in experiments}) > 1:
            raise ValueError(
                f"seeds {self.seeds} would draw different depths, and so cannot take their steps "
                "at once; set config.policy.seed, for instance to 0, and all draw with that"
            )
        self._split = jax.pmap(
            lambda tree: [self._from_devices(each) for each in self._unstack(tree)],
            axis_name=data.AXIS,
        )

    @property
    def experiment(self) -> Experiment:
        """What they share; its seed is that of the first."""
        return self.experiments[0]

    @property
    def shapes(self) -> TrainState:
        """Shapes and types of the state on one device."""
        one = jax.eval_shape(self._to_devices, self.experiment.shapes)
        runs = () if len(self.seeds) == 1 else (len(self.seeds),)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(runs + x.shape, x.dtype), one)

    def arrange(self, states: Sequence[TrainState]) -> TrainState:
        """Returns the states of all runs as one, as the step takes it on a device, on the host.

        Args:
          states: one a run, on the host or a device, as `Experiment.init` makes them.
        """
        on_host = [jax.tree.map(np.asarray, each) for each in states]
        return self._stack([self._to_devices(each) for each in on_host])

    def place(self, states: Sequence[TrainState]) -> TrainState:
        """Returns what `arrange` does, replicated over the devices."""
        return data.replicate(self.arrange(states))

    def split(self, state: TrainState) -> list[TrainState]:
        """Returns the state of each run, replicated over the devices, as the model takes it."""
        if len(self.seeds) == 1 and self.kernels == layout.HWIO:
            return [state]
        return data.to_global(self._split(state))

    def fetch(self, state: TrainState) -> list[TrainState]:
        """Returns the state of each run, as the model takes it, in NumPy arrays on the host."""
        runs = self._unstack(data.unreplicate(state))
        runs = [self._from_devices(each) for each in runs]
        return jax.tree.map(lambda x: np.asarray(x, order="C"), runs)

    def _to_devices(self, tree: Tree) -> Tree:
        return layout.to_devices(tree, self.kernels)

    def _from_devices(self, tree: Tree) -> Tree:
        return layout.from_devices(tree, self.kernels)

    def _each_run(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of one run as one of all."""
        return function if len(self.seeds) == 1 else jax.vmap(function)

    def _stack(self, trees: Sequence[Tree]) -> Tree:
        """The trees of all runs as one, each array with a leading axis of runs."""
        if len(self.seeds) == 1:
            return trees[0]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)

    def _unstack(self, tree: Tree) -> list[Tree]:
        if len(self.seeds) == 1:
            return [tree]
        return [jax.tree.map(lambda x, run=run: x[run], tree) for run in range(len(self.seeds))]

    def mapped_step(
        self, draw: Draw, devices: Sequence[jax.Device] | None = None
    ) -> Callable[..., Any]:
        """The step of a draw on the devices; it is given its state away (donated).

        Args:
          draw: static; what the step works on.
          devices: that share the batch; all where None.
        """
        count = jax.device_count() if devices is None else len(devices)
        from_devices = self._each_run(self._from_devices)
        to_devices = self._each_run(self._to_devices)

        def step(state, order, inputs, targets, key, taught_by=None, cells=None):
            state, metrics = self.experiment.step(
                from_devices(state),
                *(order, inputs, targets, key, taught_by, cells),
                draw=draw,
                devices=count,
                several=len(self.seeds) > 1,
            )
            return to_devices(state), metrics

        return jax.pmap(step, axis_name=data.AXIS, devices=devices, donate_argnums=0)

    def mapped_epoch_order(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """The order of the epoch of a step's number, given the key too, on all devices."""
        mapped = jax.pmap(self._each_run(self.experiment.epoch_order), axis_name=data.AXIS)
        return lambda step, key: data.to_global(mapped(step, key))
