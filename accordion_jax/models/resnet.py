"""CIFAR ResNet of depth 6n+2 in which any block can go.

He et al. 2016 (arXiv:1512.03385, section 4.2) with the change of Ayed et al.: between stages the
map is halved by average pooling and the channels are padded with zeros, so the transition has no
parameters, and all blocks of a stage have equal input and output. Any subset of blocks can then be
skipped, and every block costs the same.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from accordion_jax.depth import SkipMask
from accordion_jax.models.norm import BatchNorm, relu

_conv = functools.partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding="SAME",
    use_bias=False,
    # He et al. 2015 (arXiv:1502.01852): keeps the variance of a ReLU network's signals.
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)


class Stem(nn.Module):
    """The first convolution, batch norm and ReLU: [b, h, w, colours] to [b, h, w, channels]."""

    channels: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns [batch, height, width, channels]."""
        x = _conv(self.channels, dtype=self.dtype, name="conv")(x)
        return relu(BatchNorm(self.axis_name, name="norm")(x, train))


class Block(nn.Module):
    """A basic residual learning structure: two 3x3 convolutions with batch norm, and a shortcut."""

    channels: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns an array of the shape of `x`."""
        y = _conv(self.channels, dtype=self.dtype, name="conv1")(x)
        y = relu(BatchNorm(self.axis_name, name="norm1")(y, train))
        y = _conv(self.channels, dtype=self.dtype, name="conv2")(y)
        return relu(BatchNorm(self.axis_name, name="norm2")(y, train) + x)


class ResNet(nn.Module):
    """ResNet-(6n+2) whose blocks can be skipped by a static mask.

    Attributes:
      num_classes: width of the head.
      stage_sizes: blocks a stage: (18, 18, 18) is ResNet-110, (9, 9, 9) is ResNet-56.
      channels: of each stage.
      dtype: of the computation; parameters and running statistics are float32.
      axis_name: of the mapped axis over which batch norm averages in training; None normalises with
        each device's own shard.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (18, 18, 18)
    channels: tuple[int, ...] = (16, 32, 64)
    dtype: Any = jnp.float32
    axis_name: str | None = None

    base_names = ("stem", "head")

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks' sub-trees, in the order of the forward pass."""
        return tuple(
            f"stage{stage}_block{block:02d}"
            for stage, size in enumerate(self.stage_sizes, 1)
            for block in range(1, size + 1)
        )

    def setup(self) -> None:
        """Makes the modules; each is one sub-tree of the parameters."""
        if len(self.channels) != len(self.stage_sizes):
            raise ValueError(
                f"channels={self.channels} must have one entry a stage; "
                f"stage_sizes={self.stage_sizes} has {len(self.stage_sizes)}"
            )
        if list(self.channels) != sorted(self.channels):
            raise ValueError(
                f"channels={self.channels} must not shrink from stage to stage: a transition pads "
                "channels and cannot take any away"
            )
        self.stem = Stem(self.channels[0], self.dtype, self.axis_name)
        for name, stage in zip(self.block_names, self._stage_of_blocks, strict=True):
            setattr(self, name, Block(self.channels[stage], self.dtype, self.axis_name))
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def __call__(
        self, images: jax.Array, *, skip_mask: SkipMask | None = None, train: bool = False
    ) -> jax.Array:
        """Returns the logits of the network without the skipped blocks.

        Args:
          images: [batch, height, width, colours] float, normalised.
          skip_mask: static; True skips that block. None skips none.
          train: batch norm uses the batch's statistics, and updates the running ones of the kept
            blocks (make ``batch_stats`` mutable).

        Returns:
          [batch, num_classes] float32.

        Raises:
          ValueError: as `truncations`.
        """
        mask = (False,) * sum(self.stage_sizes) if skip_mask is None else skip_mask
        return self.truncations(images, skip_masks=(mask,), train=train)[0]

    def truncations(
        self, images: jax.Array, *, skip_masks: tuple[SkipMask, ...], train: bool = False
    ) -> jax.Array:
        """Returns the logits of many skip masks in one pass.

        Masks that keep the same first blocks share their computation, as in a prefix tree: all
        prefixes of the block sequence cost one forward pass and a head each. A block that masks
        reach on different inputs is computed once an input (in training its running statistics
        then move once an input).

        Args:
          images: [batch, height, width, colours] float, normalised.
          skip_masks: static, one a configuration.
          train: as in `__call__`.

        Returns:
          [len(skip_masks), batch, num_classes] float32.

        Raises:
          ValueError: a mask's length is not the number of blocks, or the images cannot be halved
            once between all stages; names both.
        """
        names = self.block_names
        for mask in skip_masks:
            if len(mask) != len(names):
                raise ValueError(
                    f"skip_mask has {len(mask)} entries; stage_sizes={self.stage_sizes} has "
                    f"{len(names)} blocks"
                )
        halvings = 2 ** (len(self.stage_sizes) - 1)
        if images.ndim != 4 or images.shape[1] % halvings or images.shape[2] % halvings:
            raise ValueError(
                f"images of shape {images.shape}: wanted [batch, height, width, colours] with "
                f"height and width divisible by {halvings}, one halving between stages"
            )
        logits: dict[SkipMask, jax.Array] = {}
        # Groups of masks that have kept the same blocks so far, with the features they share.
        groups = [(self.stem(images.astype(self.dtype), train), tuple(dict.fromkeys(skip_masks)))]
        stage_of_previous = 0
        for i, (name, stage) in enumerate(zip(names, self._stage_of_blocks, strict=True)):
            split = []
            for x, masks in groups:
                for mask in masks:
                    if all(mask[i:]):
                        logits[mask] = self._read_out(x)
                # A mask that is read out needs no transition, so nothing is pooled for it alone.
                going_on = tuple(mask for mask in masks if not all(mask[i:]))
                skipping = tuple(mask for mask in going_on if mask[i])
                keeping = tuple(mask for mask in going_on if not mask[i])
                if going_on and stage != stage_of_previous:
                    x = _halve(x, self.channels[stage])
                if skipping:
                    split.append((x, skipping))
                if keeping:
                    split.append((getattr(self, name)(x, train), keeping))
            groups, stage_of_previous = split, stage
        for x, masks in groups:
            logits |= dict.fromkeys(masks, self._read_out(x))
        return jnp.stack([logits[mask] for mask in skip_masks])

    def unit_macs(self, image_shape: tuple[int, int, int]) -> dict[str, int]:
        """Returns multiply-accumulates a unit, for one image.

        Convolutions and the head; a 3x3 convolution counts nine a channel pair and position, at the
        border too, as is the custom.

        Args:
          image_shape: (height, width, colours).
        """
        height, width, colours = image_shape
        macs = {"stem": height * width * 9 * colours * self.channels[0]}
        for name, stage in zip(self.block_names, self._stage_of_blocks, strict=True):
            positions = (height >> stage) * (width >> stage)
            macs[name] = 2 * positions * 9 * self.channels[stage] ** 2
        macs["head"] = self.channels[-1] * self.num_classes
        return macs

    @property
    def _stage_of_blocks(self) -> tuple[int, ...]:
        stages = ([stage] * size for stage, size in enumerate(self.stage_sizes))
        return tuple(itertools.chain.from_iterable(stages))

    def _read_out(self, x: jax.Array) -> jax.Array:
        """Logits of features of any stage: the remaining transitions, global pooling, the head.

        Average pooling again and again, then over the whole map, is one mean over the map.
        """
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        missing = self.channels[-1] - pooled.shape[-1]
        return self.head(jnp.pad(pooled, ((0, 0), (0, missing)))).astype(jnp.float32)


def _halve(x: jax.Array, channels: int) -> jax.Array:
    """The transition between stages: 2x2 average pooling, channels padded with zeros."""
    batch, height, width, present = x.shape
    pooled = x.reshape(batch, height // 2, 2, width // 2, 2, present).mean(axis=(2, 4))
    return jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (0, channels - present)))
