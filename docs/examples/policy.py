"""A policy of one's own: each configuration half as often as the one before it.

  python -m accordion_jax.main --config=docs/examples/policy.py

In the package, `geometric` would be a function in accordion_jax/depth/policy.py and an entry in
``POLICIES``. Half a minute on two CPU cores.
"""

import ml_collections

from accordion_jax.depth import POLICIES, Ladder, Policy
from accordion_jax.runs.config import default_config


def geometric(ladder: Ladder, ratio: float = 0.5) -> Policy:
    """Returns the policy that draws a configuration `ratio` times as often as the one before it."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio={ratio} must be in (0, 1]")
    weights = [ratio**i for i in range(len(ladder))]
    return Policy(tuple(weight / sum(weights) for weight in weights))


POLICIES["geometric"] = geometric


def get_config() -> ml_collections.ConfigDict:
    """Trains a ResNet-20 on the handwritten digits."""
    config = default_config()
    config.name = "policy"
    config.data.name = "digits"
    config.data.pad, config.data.flip = 1, False
    config.model.arguments.stage_sizes = (3, 3, 3)
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optimizer.schedule = "cosine"
    config.policy = ml_collections.ConfigDict({"name": "geometric", "seed": -1, "ratio": 0.7})
    return config
