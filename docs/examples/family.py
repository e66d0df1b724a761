"""A family of networks of one's own, with an argument of its own: residual layers on pixels.

  python -m accordion_jax.main --config=docs/examples/family.py

In the package, `Perceptron` would be a file in accordion_jax/models/ and an entry in ``FAMILIES``.
Half a minute on two CPU cores.
"""

from typing import Any

import jax
import ml_collections
from flax import linen as nn

from accordion_jax import models
from accordion_jax.models import prefixes
from accordion_jax.runs.config import default_config


class Perceptron(nn.Module):
    """A multi-layer perceptron with shortcuts: any layer can go.

    Attributes:
      num_classes: width of the head.
      blocks: hidden layers.
      width: of a hidden layer.
    """

    num_classes: int
    blocks: int = 4
    width: int = 64

    base_names = ("stem", "head")

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """One stage."""
        return (self.blocks,)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Of the hidden layers' sub-trees."""
        return tuple(f"layer{i:02d}" for i in range(1, self.blocks + 1))

    def setup(self) -> None:
        """Makes the modules."""
        self.stem = nn.Dense(self.width)
        self.layers = [nn.Dense(self.width, name=name) for name in self.block_names]
        self.head = nn.Dense(self.num_classes)

    def __call__(self, inputs: Any, *, skip_mask: Any = None, train: bool = False) -> jax.Array:
        """Returns [batch, num_classes] float32."""
        mask = (False,) * self.blocks if skip_mask is None else skip_mask
        return self.truncations(inputs, skip_masks=(mask,), train=train)[0]

    def truncations(self, inputs: Any, *, skip_masks: Any, train: bool = False) -> jax.Array:
        """Returns [masks, batch, num_classes] float32; shared layers run once."""
        del train
        return prefixes.walk(
            skip_masks,
            nn.relu(self.stem(inputs.reshape(len(inputs), -1))),
            block=lambda i, x: x + nn.relu(self.layers[i](x)),
            read_out=self.head,
        )

    def unit_macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Returns multiply-accumulates a unit, for one image."""
        pixels = shape[0] * shape[1] * shape[2]
        costs = {"stem": pixels * self.width, "head": self.width * self.num_classes}
        return costs | dict.fromkeys(self.block_names, self.width**2)


models.FAMILIES["perceptron"] = Perceptron


def get_config() -> ml_collections.ConfigDict:
    """Trains it on the handwritten digits."""
    config = default_config()
    config.name = "family"
    config.model.family = "perceptron"
    config.model.arguments = ml_collections.ConfigDict({"blocks": 4, "width": 48})
    config.data.name = "digits"
    config.data.pad, config.data.flip = 1, False
    config.policy.min_depth = 0
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.05
    return config
