"""An objective of one's own: the smallest, the full and a drawn configuration in each step.

  python -m accordion_jax.main --config=docs/examples/objective.py

The "sandwich rule" of Yu and Huang 2019 (arXiv:1903.05134). In the package, `sandwich` would be a
function in accordion_jax/training/objective.py and an entry in ``OBJECTIVES``. A minute on two CPU
cores.
"""

import ml_collections

from accordion_jax.depth import Ladder, Policy, draw
from accordion_jax.runs.config import default_config
from accordion_jax.training.objective import OBJECTIVES, Draw


def sandwich(ladder: Ladder, policy: Policy, seed: int, step: int) -> Draw:
    """Returns the smallest, the full and one drawn configuration, of equal weights."""
    drawn = ladder[draw(policy, seed=seed, step=step)]
    masks = dict.fromkeys((ladder[0].skip_mask, drawn.skip_mask, ladder.full.skip_mask))
    return Draw(tuple(masks), (1 / len(masks),) * len(masks))


OBJECTIVES["sandwich"] = sandwich


def get_config() -> ml_collections.ConfigDict:
    """Trains a ResNet-20 on the handwritten digits."""
    config = default_config()
    config.name = "objective"
    config.objective = "sandwich"
    config.data.name = "digits"
    config.data.pad, config.data.flip = 1, False
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.policy.min_depth = 0
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optimizer.schedule = "cosine"
    return config
