"""The training step: pure, with a static draw, mapped over the devices.

Nothing crosses between host and devices in a step: the data set, the order of the epoch and the
step's number are on the devices already.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from accordion_jax import data
from accordion_jax.models import Network
from accordion_jax.tasks import Task
from accordion_jax.training.loss import weighted_loss
from accordion_jax.training.objective import Draw
from accordion_jax.training.pruning import keep_zeros
from accordion_jax.training.rounding import round_units
from accordion_jax.training.state import TrainState, Tree
from accordion_jax.training.teacher import Teacher
from accordion_jax.training.within import rounded_within, stay_within

AXIS = data.AXIS
Metrics = dict[str, jax.Array]


def epoch_order(
    step: jax.Array, key: jax.Array, *, steps_per_epoch: int, examples: int
) -> jax.Array:
    """Returns the order in which the epoch of a step visits the examples.

    A function of (key, epoch). The last examples of the order that do not fill a batch are left
    out of that epoch.

    Args:
      step: [] int32.
      key: [2] uint32, data of the run's key.
      steps_per_epoch: examples // batch_size.
      examples: in the training split.

    Returns:
      [examples] int32, a permutation.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(key), step // steps_per_epoch)
    return jax.random.permutation(jax.random.fold_in(key, 1), examples).astype(jnp.int32)


def train_step(
    state: TrainState,
    order: jax.Array,
    inputs: Any,
    targets: jax.Array,
    key: jax.Array,
    taught_by: Tree = None,
    cells: Tree = None,
    *,
    model: Network,
    task: Task,
    draw: Draw,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    batch_size: int,
    devices: int,
    several: bool = False,
    bits: Sequence[int] = (),
    held: int = 0,
    sparse: bool = False,
    teacher: Teacher | None = None,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one step on this device's share of the batch, and its metrics.

    Runs inside a map over `AXIS`. What is random in an example is drawn for the whole batch from
    (key, step), so it doesn't depend on the number of devices; gradients and running statistics are
    averaged over the devices. The key is an argument, not a constant, so that runs that differ in
    their seed alone share their compiled programs.

    Args:
      state: of the units that the draw keeps, and no others.
      order: [examples] int32, of this epoch.
      inputs: [examples, numbers], or a tree of them: the whole training split, an example a row
        (`Dataset.rows`).
      targets: [examples, ...] int32.
      key: [2] uint32, data of the run's key.
      taught_by: variables of the teacher, the same for all runs; an argument, so that programs do
        not hold its weights.
      cells: of the values that parameters may have (`Within.cells`), or None; likewise.
      model: called with the skip masks of the draw.
      task: static; prepares the examples, and gives loss and error.
      draw: static; what the step works on.
      optimizer: turns a unit's gradients into its direction of descent, without learning rate.
      learning_rate: of a step.
      batch_size: over all devices.
      devices: that share the batch.
      several: whether several runs take their steps at once; state, order and key then have a
        leading axis of runs.
      bits: that kernels are rounded to, as `rounding.round_units`; none: they are not.
      held: of the levels of `cells`.
      sparse: whether what is zero in a block's kernels stays so.
      teacher: static; another network whose answers the draw is taught.

    Returns:
      The new state, and the metrics of `loss.weighted_loss` over the whole batch, a number a
      run.
    """
    runs = state.step.shape  # () or (runs,)
    chex.assert_shape(order, (*runs, targets.shape[0]))
    chex.assert_shape(key, (*runs, 2))
    chex.assert_type([order, targets, key], [jnp.int32, jnp.int32, jnp.uint32])
    chex.assert_equal_shape_prefix([targets, *jax.tree.leaves(inputs)], 1)
    local = batch_size // devices
    first = jax.lax.axis_index(AXIS) * local
    steps_per_epoch = targets.shape[0] // batch_size
    each_run = jax.vmap if several else lambda function: function

    @each_run
    def batch(step, order, key):
        start = step % steps_per_epoch * batch_size + first
        rows = jax.lax.dynamic_slice(order, (start,), (local,))
        key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), step), 2)
        drawn = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, first, local), task.draw(key, batch_size)
        )
        picked = jax.tree.map(
            lambda x, spec: x[rows].reshape(local, *spec.shape), inputs, task.inputs
        )
        return task.prepare(task.augment(picked, drawn)), targets[rows]

    @each_run
    def round_kernels(params, step, key):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), step), 3)
        if cells is None:
            return round_units(params, bits, key)
        trees = cells["center"], cells["spacing"]
        return round_units(params, bits, key, trees, functools.partial(rounded_within, held=held))

    @each_run
    def soft_labels(x):
        return teacher.answers(taught_by, x) if teacher is not None else None

    @each_run
    def loss_and_rest(params, batch_stats, objective, x, y, soft):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, updated = model.apply(
            variables,
            x,
            skip_masks=draw.skip_masks,
            train=True,
            mutable=["batch_stats"],
            method="truncations",
        )
        loss, metrics = weighted_loss(draw, task, outputs, y, objective, soft)
        return loss, (dict(updated.get("batch_stats", {})), metrics)

    def total_loss(params):
        # One gradient of all runs, not the gradient of each in a map: XLA then sees gradients of
        # grouped convolutions, which cuDNN has kernels for.
        if bits:
            params = round_kernels(params, state.step, key)
        loss, rest = loss_and_rest(params, state.batch_stats, state.objective, x, y, soft)
        return jnp.sum(loss), rest

    x, y = batch(state.step, order, key)
    soft = soft_labels(x)
    gradients, (batch_stats, metrics) = jax.grad(total_loss, has_aux=True)(state.params)
    gradients, batch_stats, metrics = jax.lax.pmean((gradients, batch_stats, metrics), AXIS)
    objective = state.objective
    if draw.adaptation:
        ascend = each_run(draw.adaptation.ascend)
        objective = {"log_weights": ascend(objective["log_weights"], metrics.pop("losses"))}
    rate = jnp.asarray(each_run(learning_rate)(state.step.astype(jnp.float32)), jnp.float32)

    # To JAX a function of its own, so that it is traced once for all units of the same shapes.
    @jax.jit
    @each_run
    def descend(gradients, opt_state, old, rate):
        direction, opt_state = optimizer.update(gradients, opt_state, old)
        return jax.tree.map(lambda p, d: p - rate * d, old, direction), opt_state

    params, opt_state = {}, {}
    for unit, old in state.params.items():
        new, opt_state[unit] = descend(gradients[unit], state.opt_state[unit], old, rate)
        if sparse and unit in model.block_names:
            new = keep_zeros(old, new)
        if cells is not None:
            cell = {end: tree[unit] for end, tree in cells.items()}
            new = each_run(functools.partial(stay_within, bits=held, **cell))(new)
        params[unit] = new
    return TrainState(state.step + 1, params, batch_stats, opt_state, objective), metrics
