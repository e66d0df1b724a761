"""What training changes, kept one sub-tree a unit (stem, head, each block).

A step takes the units that its configuration keeps and gives them back; the others are not passed
to it at all, so a skipped block's parameters, momentum and running statistics stay bit for bit as
they were.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from accordion_jax.models import Network
from accordion_jax.tasks import Task

Tree = Any


class TrainState(NamedTuple):
    """The state of a run between two steps.

    Attributes:
      step: [] int32, how many steps have been taken.
      params: unit name -> parameters.
      batch_stats: unit name -> running statistics; no entry for a unit without.
      opt_state: unit name -> optimizer state. One a unit, so that an optimizer that counts its
        updates counts those of the unit.
      objective: what the objective keeps from step to step; empty for most.
    """

    step: jax.Array
    params: dict[str, Tree]
    batch_stats: dict[str, Tree]
    opt_state: dict[str, Tree]
    objective: dict[str, Tree] = {}  # noqa: RUF012 - nobody changes it

    def keep(self, units: Iterable[str]) -> "TrainState":
        """Returns the state of only these units."""
        wanted = set(units)

        def only(tree: dict[str, Tree]) -> dict[str, Tree]:
            return {unit: value for unit, value in tree.items() if unit in wanted}

        return TrainState(
            self.step,
            only(self.params),
            only(self.batch_stats),
            only(self.opt_state),
            self.objective,
        )

    def merge(self, updated: "TrainState") -> "TrainState":
        """Returns this state with the units of `updated` replaced, and its step."""
        return TrainState(
            updated.step,
            self.params | updated.params,
            self.batch_stats | updated.batch_stats,
            self.opt_state | updated.opt_state,
            updated.objective,
        )

    @property
    def variables(self) -> dict[str, Tree]:
        """What the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def example_spec(task: Task) -> Any:
    """Returns shape and type of one prepared example, with a batch axis of 1: what a network takes.

    Args:
      task: whose `inputs` may be any tree.

    Returns:
      A tree of `jax.ShapeDtypeStruct`, [1, ...].
    """
    stored = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype), task.inputs
    )
    return jax.eval_shape(task.prepare, stored)


def init_state(
    model: Network, optimizer: optax.GradientTransformation, key: jax.Array, example: Any
) -> TrainState:
    """Returns the state before the first step, every array on the default device.

    A unit's parameters depend on the key and its name alone, not on the other units.

    Args:
      model: Linen module.
      optimizer: applied to each unit's parameters on its own.
      key: of the initial parameters.
      example: tree of shapes and types, [1, ...], as `example_spec` gives it.
    """
    # One program, since made one array at a time each new shape would be compiled on its own; it
    # runs once, so on CPU its compiler need not try hard (0.5 s in place of 6 s for three blocks).
    hurry = {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    init = functools.partial(_init, model, optimizer, example=example)
    return jax.jit(init, compiler_options=hurry)(key)


def state_shapes(
    model: Network, optimizer: optax.GradientTransformation, example: Any
) -> TrainState:
    """Returns the shapes and types of `init_state`'s arrays, without making them."""
    return jax.eval_shape(
        functools.partial(_init, model, optimizer, example=example), jax.random.key(0)
    )


def _init(
    model: Network, optimizer: optax.GradientTransformation, key: jax.Array, example: Any
) -> TrainState:
    variables = model.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example))
    params = dict(variables["params"])
    opt_state = {unit: optimizer.init(tree) for unit, tree in params.items()}
    stats = dict(variables.get("batch_stats", {}))
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state)
