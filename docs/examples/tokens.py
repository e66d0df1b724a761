"""A task of one's own: next tokens, with a data set and a small family of networks for them.

  python -m accordion_jax.main --config=docs/examples/tokens.py

In the package, `Tokens` would be a file in accordion_jax/tasks/ and an entry in ``KINDS``,
`TokenMixer` one in accordion_jax/models/ and in ``FAMILIES``, `load_sums` an entry in ``LOADERS``
of accordion_jax/data/loading.py. Here they are entered below. About a minute on two CPU cores.
"""

import dataclasses
import pathlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from accordion_jax import models, tasks
from accordion_jax.data import Dataset, loading
from accordion_jax.models import prefixes
from accordion_jax.runs.config import default_config
from accordion_jax.tasks import Spec
from accordion_jax.tasks.answers import cross_entropy, not_the_largest, soft_cross_entropy

SYMBOLS = "0123456789+= "


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Sequences of one length; the answer to each position is the token that follows it.

    Attributes:
      length: tokens in a sequence.
      vocabulary: tokens are below it.
    """

    kind: ClassVar[str] = "tokens"
    input_name: ClassVar[str] = "tokens"
    target_name: ClassVar[str] = "next_tokens"
    example_name: ClassVar[str] = "sequence"
    error_name: ClassVar[str] = "token error"

    length: int
    vocabulary: int

    loss = staticmethod(cross_entropy)
    distillation_loss = staticmethod(soft_cross_entropy)
    wrong = staticmethod(not_the_largest)

    @property
    def inputs(self) -> Spec:
        """Tokens as they are stored."""
        return Spec((self.length,), "int32")

    def describe(self) -> dict[str, Any]:
        """Returns length and vocabulary."""
        return {"length": self.length, "vocabulary": self.vocabulary}

    @classmethod
    def from_description(cls, description: Any) -> "Tokens":
        """Returns the task of a manifest's ``input``."""
        try:
            return cls(int(description["length"]), int(description["vocabulary"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"input={dict(description)} of tokens: wanted two numbers") from error

    def check(self, inputs: Any) -> None:
        """Refuses all but int32 sequences of this length."""
        if inputs.dtype != np.int32 or tuple(inputs.shape[1:]) != (self.length,):
            raise ValueError(
                f"tokens are {inputs.dtype} of shape {tuple(inputs.shape)}; wanted int32 of shape "
                f"(batch, {self.length})"
            )

    def prepare(self, inputs: Any) -> Any:
        """Returns the tokens: the network looks them up itself."""
        self.check(inputs)
        return inputs

    def with_augmentation(self) -> "Tokens":
        """Returns this task: there is nothing to set."""
        return self

    def draw(self, key: Any, batch: int) -> Any:
        """Returns nothing: sequences are trained on as they are."""
        del key, batch
        return ()

    def augment(self, inputs: Any, drawn: Any) -> Any:
        """Returns the tokens."""
        del drawn
        return inputs


class Mixer(nn.Module):
    """Adds to each position what a layer makes of it and of the positions before it."""

    width: int
    reach: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [batch, length, width]."""
        past = jnp.pad(x, ((0, 0), (self.reach - 1, 0), (0, 0)))
        mixed = nn.Conv(self.width, (self.reach,), padding="VALID", name="mix")(past)
        return x + nn.Dense(self.width, name="out")(nn.relu(mixed))


class TokenMixer(nn.Module):
    """Residual blocks over tokens: any of them can go.

    Attributes:
      num_classes: the vocabulary.
      blocks: how many.
      width: of the features.
      reach: positions that a block looks back over, its own among them.
    """

    num_classes: int
    blocks: int = 3
    width: int = 32
    reach: int = 6

    base_names = ("embed", "head")

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """One stage."""
        return (self.blocks,)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Of the blocks' sub-trees."""
        return tuple(f"block{i:02d}" for i in range(1, self.blocks + 1))

    def setup(self) -> None:
        """Makes the modules."""
        self.embed = nn.Embed(self.num_classes, self.width)
        self.mixers = [Mixer(self.width, self.reach, name=name) for name in self.block_names]
        self.head = nn.Dense(self.num_classes)

    def __call__(self, tokens: Any, *, skip_mask: Any = None, train: bool = False) -> jax.Array:
        """Returns [batch, length, num_classes] float32."""
        mask = (False,) * self.blocks if skip_mask is None else skip_mask
        return self.truncations(tokens, skip_masks=(mask,), train=train)[0]

    def truncations(self, tokens: Any, *, skip_masks: Any, train: bool = False) -> jax.Array:
        """Returns [masks, batch, length, num_classes] float32; shared blocks run once."""
        del train
        return prefixes.walk(
            skip_masks,
            self.embed(tokens),
            block=lambda i, x: self.mixers[i](x),
            read_out=self.head,
        )

    def unit_macs(self, shape: tuple[int]) -> dict[str, int]:
        """Returns multiply-accumulates a unit, for one sequence."""
        (length,) = shape
        block = length * self.width * self.width * (self.reach + 1)
        costs = {"embed": 0, "head": length * self.width * self.num_classes}
        return costs | dict.fromkeys(self.block_names, block)


def load_sums(split: str, data_dir: pathlib.Path) -> Dataset:
    """Returns sums such as "7+5=12 ", some to train on and others to test on."""
    del data_dir
    texts = [f"{a}+{b}={a + b}".ljust(9) for a in range(60) for b in range(60)]
    chosen = [text for i, text in enumerate(texts) if (i * 7 % 10 < 2) == (split == "test")]
    tokens = np.array([[SYMBOLS.index(symbol) for symbol in text] for text in chosen], np.int32)
    task = Tokens(tokens.shape[1] - 1, len(SYMBOLS))
    return Dataset("sums", task, tokens[:, :-1], tokens[:, 1:], len(SYMBOLS))


tasks.KINDS["tokens"] = Tokens
models.FAMILIES["token_mixer"] = TokenMixer
loading.LOADERS["sums"] = load_sums


def get_config() -> ml_collections.ConfigDict:
    """Trains all prefixes of three blocks with AdamW."""
    config = default_config()
    config.name = "tokens"
    config.model.family = "token_mixer"
    config.model.arguments = ml_collections.ConfigDict({"blocks": 3, "width": 32})
    config.data = ml_collections.ConfigDict({"name": "sums", "dir": "", "holdout": 0})
    config.policy.min_depth = 0
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.003
    config.optimizer.schedule = "cosine"
    return config
