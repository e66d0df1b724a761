"""An objective of one's own: a drawn configuration and the full one in each step.

  python -m accordion_jax.main --config=docs/examples/objective.py

In the package, `with_full` would be a function in accordion_jax/training/objective.py and an entry
in ``OBJECTIVES``. A minute on two CPU cores.
"""

import ml_collections

from accordion_jax.depth import Ladder, Policy, draw
from accordion_jax.runs.config import default_config
from accordion_jax.training.objective import OBJECTIVES, Draw, single


def with_full(
    ladder: Ladder, policy: Policy, seed: int, step: int, *, full_weight: float = 0.5
) -> Draw:
    """Returns one drawn configuration and the full one; `full_weight` is a field of the config."""
    drawn, full = ladder[draw(policy, seed=seed, step=step)].skip_mask, ladder.full.skip_mask
    return single(full) if drawn == full else Draw((drawn, full), (1 - full_weight, full_weight))


OBJECTIVES["with_full"] = with_full


def get_config() -> ml_collections.ConfigDict:
    """Trains a ResNet-20 on the handwritten digits."""
    config = default_config()
    config.name = "objective"
    config.objective.name = "with_full"
    config.objective.full_weight = 0.4
    config.data.name = "digits"
    config.data.pad, config.data.flip = 1, False
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.policy.min_depth = 0
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optimizer.schedule = "cosine"
    return config
