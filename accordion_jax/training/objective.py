"""What a step minimises.

An objective is a function from (ladder, policy, seed, step) to a `Draw`: which skip masks the step
works on, and how much the loss of each counts. The step, its compiled programs and the look-ahead
all ask this one function. It computes on the host, the same on every process, and depends on
nothing else, so that what a run will need is known beforehand. A new objective is a function here
and an entry in ``OBJECTIVES``.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from accordion_jax.depth import Ladder, Policy, SkipMask, draw
from accordion_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one step works on: hashable, and static in its compiled program.

    Attributes:
      skip_masks: one or several, of one length.
      weights: of the loss of each; positive.

    Raises:
      ValueError: the two do not fit together; names them.
    """

    skip_masks: tuple[SkipMask, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if not self.skip_masks or len(self.skip_masks) != len(self.weights):
            raise ValueError(
                f"a draw has {len(self.skip_masks)} skip masks and {len(self.weights)} weights; "
                "wanted as many of each, at least one"
            )
        if len({len(mask) for mask in self.skip_masks}) > 1:
            raise ValueError("the skip masks of a draw must be of one network: of one length")
        if len(set(self.skip_masks)) < len(self.skip_masks):
            raise ValueError("a draw has a skip mask twice; add up its weights")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError(f"weights={self.weights} of a draw must be positive and finite")

    @property
    def skip_mask(self) -> SkipMask:
        """Skips the blocks that all of its masks skip: the step does not touch these."""
        return tuple(all(skips) for skips in zip(*self.skip_masks, strict=True))

    @property
    def depth(self) -> int:
        """How many blocks the step works on."""
        return len(self.skip_mask) - sum(self.skip_mask)


# (ladder, policy, seed, step) -> what that step works on.
Objective = Callable[[Ladder, Policy, int, int], Draw]


def single(skip_mask: SkipMask) -> Draw:
    """Returns the draw of one configuration."""
    return Draw((skip_mask,), (1.0,))


def drawn_depth(ladder: Ladder, policy: Policy, seed: int, step: int) -> Draw:
    """Returns one configuration, drawn from the policy: the objective of Ayed et al."""
    return single(ladder[draw(policy, seed=seed, step=step)].skip_mask)


OBJECTIVES: dict[str, Objective] = {"drawn_depth": drawn_depth}


def in_order_of_need(draw_of: Callable[[int], Draw], steps: Iterable[int]) -> list[Draw]:
    """Returns the draws of these steps, each once, in the order in which they first come."""
    return list(dict.fromkeys(map(draw_of, steps)))


def weighted_loss(
    drawn: Draw, task: Task, outputs: jax.Array, targets: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of a draw, and the metrics of its step.

    Args:
      drawn: static.
      task: gives the loss of an answer, and says when one is wrong.
      outputs: [masks, batch, ...], of the network under each mask.
      targets: [batch, ...].

    Returns:
      [] float32, the weighted sum over the masks of the mean loss; and {"loss": the same, "error":
      the weighted mean of the share of wrong answers}.
    """
    # A family's answers to a task's questions: here, since afterwards broadcasting hides a mistake.
    chex.assert_shape(outputs, (len(drawn.skip_masks), *targets.shape, None))
    chex.assert_type(outputs, jnp.float32)
    each_mask = [outputs[i] for i in range(len(drawn.skip_masks))]
    losses = [task.loss(each, targets).mean() for each in each_mask]
    errors = [jnp.mean(task.wrong(each, targets)) for each in each_mask]
    if drawn.weights == (1.0,):
        loss, error = losses[0], errors[0]
    else:
        weights = jnp.asarray(drawn.weights, jnp.float32)
        loss = jnp.sum(weights * jnp.stack(losses))
        error = jnp.sum(weights * jnp.stack(errors)) / math.fsum(drawn.weights)
    return loss, {"loss": loss, "error": error}
