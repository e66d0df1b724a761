"""The loss of what a step works on, and the metrics of the step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from accordion_jax.tasks import Task
from accordion_jax.training.objective import Draw


def weighted_loss(
    drawn: Draw,
    task: Task,
    outputs: jax.Array,
    targets: Any,
    state: Mapping[str, jax.Array] | None = None,
    soft: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of a draw, and the metrics of its step.

    Args:
      drawn: static.
      task: gives the loss of an answer, and says when one is wrong.
      outputs: [masks, batch, ...], of the network under each mask.
      targets: [batch, ...].
      state: as `objective_state`, where the draw's weights adapt.
      soft: [batch, ...], answers of the teacher, where that is another network.

    Returns:
      [] float32, the weighted sum over the masks of the mean loss; and {"loss": the same, "error":
      the weighted mean of the share of wrong answers}. Where masks are taught, also {"task_loss",
      "distillation_loss"}: the weighted means over these of their loss by the right answers, and by
      the teacher's. Where the weights adapt, also {"losses": [masks], by
      the right answers; "weighted_depth": mean blocks under the weights; "largest_excess"}.
    """
    # A family's answers to a task's questions: here, since afterwards broadcasting hides a mistake.
    chex.assert_shape(outputs, (len(drawn.skip_masks), *targets.shape, None))
    chex.assert_type(outputs, jnp.float64 if outputs.dtype == jnp.float64 else jnp.float32)
    each_mask = [outputs[i] for i in range(len(drawn.skip_masks))]
    losses = [task.loss(each, targets).mean() for each in each_mask]
    errors = [jnp.mean(task.wrong(each, targets)) for each in each_mask]
    if drawn.weights == (1.0,) and not drawn.taught:
        return losses[0], {"loss": losses[0], "error": errors[0]}
    weights, of_all = jnp.asarray(drawn.weights, losses[0].dtype), math.fsum(drawn.weights)
    metrics: dict[str, jax.Array] = {}
    if drawn.adaptation and state:
        weights = jax.lax.stop_gradient(drawn.adaptation.weights(state["log_weights"]))
        metrics |= _adapting(drawn, jnp.stack(losses), weights)
    error = jnp.sum(weights.astype(errors[0].dtype) * jnp.stack(errors)) / of_all
    metrics["error"] = error
    if drawn.taught:
        soft = each_mask[drawn.teacher] if drawn.teacher is not None else soft
        losses, sizes = _taught(drawn, task, each_mask, losses, soft)
        metrics |= sizes
    stacked = jnp.stack(losses)
    if drawn.balanced:
        # Scaled so that the sum of the losses, as it is minimised, keeps its size.
        inverse = jax.lax.stop_gradient(1 / jnp.maximum(stacked, 1e-3))
        weights = weights * inverse * (jnp.sum(weights) / jnp.sum(weights * inverse))
    loss = jnp.sum(weights * stacked)
    return loss, {"loss": loss} | metrics


def _adapting(drawn: Draw, losses: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    assert drawn.adaptation is not None
    depths = jnp.asarray([mask.count(False) for mask in drawn.skip_masks], weights.dtype)
    return {
        "losses": losses,
        "weighted_depth": jnp.sum(weights * depths),
        "largest_excess": jnp.max(drawn.adaptation.excess(losses)),
    }


def _taught(
    drawn: Draw, task: Task, outputs: list[jax.Array], losses: list[jax.Array], soft: Any
) -> tuple[list[jax.Array], dict[str, jax.Array]]:
    """Returns each mask's loss with the teacher's share, and the sizes of both parts."""
    chex.assert_equal_shape([soft, outputs[0]])
    soft, share = jax.lax.stop_gradient(soft), drawn.distillation
    by_teacher = {
        i: task.distillation_loss(outputs[i], soft, drawn.temperature).mean() for i in drawn.taught
    }
    of_taught = math.fsum(drawn.weights[i] for i in drawn.taught)

    def mean(each: Callable[[int], jax.Array]) -> jax.Array:
        return jnp.sum(jnp.stack([drawn.weights[i] / of_taught * each(i) for i in drawn.taught]))

    sizes = {
        "task_loss": mean(losses.__getitem__),
        "distillation_loss": mean(by_teacher.__getitem__),
    }
    mixed = [
        (1 - share) * loss + share * by_teacher[i] if i in by_teacher else loss
        for i, loss in enumerate(losses)
    ]
    return mixed, sizes
