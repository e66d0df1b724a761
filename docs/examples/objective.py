"""An objective of one's own: the smallest, the full and a drawn configuration in each step.

  python -m accordion_jax.main --config=docs/examples/objective.py

The "sandwich rule" of Yu and Huang 2019 (arXiv:1903.05134). In the package, `sandwich` would be a
function in accordion_jax/training/objective.py and an entry in ``OBJECTIVES``. A minute on two CPU
cores.
"""

import ml_collections

from accordion_jax.depth import Ladder, Policy, draw
from accordion_jax.training.objective import OBJECTIVES, Draw
from configs import quickstart


def sandwich(ladder: Ladder, policy: Policy, seed: int, step: int) -> Draw:
    """Returns the smallest, the full and one drawn configuration, of equal weights."""
    drawn = ladder[draw(policy, seed=seed, step=step)]
    masks = dict.fromkeys((ladder[0].skip_mask, drawn.skip_mask, ladder.full.skip_mask))
    return Draw(tuple(masks), (1 / len(masks),) * len(masks))


OBJECTIVES["sandwich"] = sandwich


def get_config() -> ml_collections.ConfigDict:
    """The quickstart, but for its objective."""
    config = quickstart.get_config()
    config.name = "objective"
    config.objective = "sandwich"
    return config
