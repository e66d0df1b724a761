"""Weights of configurations that follow their losses: minimax by exponentiated gradients.

The weights w play against the network: it descends on sum_i w_i loss_i, they ascend on each
configuration's excess over what it could reach, w_i ~ p_i exp(rate * sum of excesses so far). It is
group DRO (Sagawa et al. 2020, arXiv:1911.08731) with configurations as groups, and on the side of
the weights Hedge (Freund and Schapire 1997, 10.1006/jcss.1997.1504): over T steps with excesses
within a range B, the weights' loss is at most that of the best fixed weights plus
log(n) / rate + rate * T * B^2 / 8. That bound holds for any sequence of losses. For convex losses
it makes the average of the iterates minimax; a network's are not convex, so of it only the weights'
side remains: no configuration can stay far behind for long without its weight growing.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How the weights of a draw's masks follow their losses: hashable, static in the program.

    Attributes:
      configurations: index in the ladder of each mask.
      policy: weight of each with which they start; positive, their sum is 1.
      references: in nats, what the loss of each could be: its excess is what is above.
      rate: of the exponentiated gradient, a step; not negative.
      floor: share of the policy that no weight falls below, 0 to 1.

    Raises:
      ValueError: these do not fit together; names them.
    """

    configurations: tuple[int, ...]
    policy: tuple[float, ...]
    references: tuple[float, ...]
    rate: float
    floor: float

    def __post_init__(self):
        if not len(self.configurations) == len(self.policy) == len(self.references):
            raise ValueError(
                f"{len(self.configurations)} configurations have {len(self.policy)} weights and "
                f"{len(self.references)} references; wanted one of each"
            )
        if not all(math.isfinite(each) for each in self.references):
            raise ValueError(f"references={self.references} must be finite losses, in nats")
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise ValueError(f"rate={self.rate} of the weights must be finite and not negative")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor={self.floor} must be a share, 0 to 1")

    def weights(self, log_weights: jax.Array) -> jax.Array:
        """Returns [masks] float32, the weights of a step; their sum is 1.

        Args:
          log_weights: [configurations of the ladder], of the run's state.
        """
        policy = jnp.asarray(self.policy, jnp.float32)
        mine = log_weights[np.array(self.configurations)]
        return (1 - self.floor) * jax.nn.softmax(jnp.log(policy) + mine) + self.floor * policy

    def excess(self, losses: jax.Array) -> jax.Array:
        """Returns [masks] float32, by how much each loss is above its reference."""
        return losses.astype(jnp.float32) - jnp.asarray(self.references, jnp.float32)

    def ascend(self, log_weights: jax.Array, losses: jax.Array) -> jax.Array:
        """Returns the logarithms of the weights after a step; those that it does not touch stay.

        Args:
          log_weights: [configurations of the ladder].
          losses: [masks], of this step's batch.
        """
        at = np.array(self.configurations)
        risen = log_weights[at] + self.rate * self.excess(losses)
        # Only differences count: without this they would grow for ever.
        return log_weights.at[at].set(risen - jnp.max(risen))


def initial(configurations: int) -> dict[str, np.ndarray]:
    """Returns the state of the weights before the first step, at which they are the policy's."""
    return {"log_weights": np.zeros(configurations, np.float32)}
