"""CIFAR ResNet of depth 6n+2 in which any block can go.

He et al. 2016 (arXiv:1512.03385, section 4.2) with the change of Ayed et al.: between stages the
map is halved by average pooling and the channels are padded with zeros, so the transition has no
parameters, and all blocks of a stage have equal input and output. Any subset of blocks can then be
skipped, and every block costs the same.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from accordion_jax.depth import SkipMask
from accordion_jax.models import prefixes
from accordion_jax.models.residual import Block, Stem, apply_block, halve, pool, put_statistics

# Features, and the index of the block that they come from.
Reached = tuple[jax.Array, int]

# A description may come from a stranger's manifest: what is larger is a mistake, or an attack.
_MOST_BLOCKS = 10_000  # in a stage
_MOST_CHANNELS = 1_000_000


class ResNet(nn.Module):
    """ResNet-(6n+2) whose blocks can be skipped by a static mask.

    Attributes:
      num_classes: width of the head.
      stage_sizes: blocks a stage: (18, 18, 18) is ResNet-110, (9, 9, 9) is ResNet-56.
      channels: of each stage.
      own_heads: whether each block holds a head of its own, from as many channels as it has: that
        of the configurations whose last block it is. ``head`` is then that of the base alone. As
        one for all depths, it asks of the first blocks that what they find be of use to it, which
        the last ones pay for.
      dtype: of the computation; parameters and running statistics are float32.
      axis_name: of the mapped axis over which batch norm averages in training; None normalises with
        each device's own shard.
      scan_stages: run the kept blocks of a stage in a loop (`jax.lax.scan` over their stacked
        parameters), so that a program has one block body a stage however many blocks it keeps: the
        same function, and the same variables. It compiles faster; on CPU it runs many times
        slower, since XLA's convolutions there are slow in loops, and on a GPU it launches more than
        twice as many kernels.
    """

    num_classes: int
    stage_sizes: tuple[int, ...] = (18, 18, 18)
    channels: tuple[int, ...] = (16, 32, 64)
    own_heads: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None
    scan_stages: bool = False

    base_names = ("stem", "head")

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks' sub-trees, in the order of the forward pass."""
        return tuple(
            f"stage{stage}_block{block:02d}"
            for stage, size in enumerate(self.stage_sizes, 1)
            for block in range(1, size + 1)
        )

    def __post_init__(self) -> None:
        """Refuses numbers that are no sizes of a network.

        Raises:
          ValueError: names the field and its value.
        """
        for name, largest in (("stage_sizes", _MOST_BLOCKS), ("channels", _MOST_CHANNELS)):
            sizes = getattr(self, name)
            if (
                not isinstance(sizes, tuple)
                or not sizes
                or any(type(n) is not int or not 1 <= n <= largest for n in sizes)
            ):
                raise ValueError(
                    f"{name}={sizes!r} must be whole numbers from 1 to {largest}, one a stage"
                )
        if type(self.num_classes) is not int or not 1 <= self.num_classes <= _MOST_CHANNELS:
            raise ValueError(
                f"num_classes={self.num_classes!r} must be a whole number from 1 to "
                f"{_MOST_CHANNELS}"
            )
        if type(self.own_heads) is not bool:
            raise ValueError(f"own_heads={self.own_heads!r} must be True or False")
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
        super().__post_init__()

    def setup(self) -> None:
        """Makes the modules; each is one sub-tree of the parameters."""
        self.stem = Stem(self.channels[0], self.dtype, self.axis_name)
        for name, stage in zip(self.block_names, self._stage_of_blocks, strict=True):
            setattr(self, name, self._block(self.channels[stage]))
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

        Masks that keep the same first blocks share their computation (`prefixes.walk`). A block
        that masks reach on different inputs is computed once an input: in training its running
        statistics then move once an input.

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
        return self._walked(images, skip_masks, train, lambda pooled: self._read_out(*pooled))

    def pooled(
        self, images: jax.Array, *, skip_masks: tuple[SkipMask, ...], train: bool = False
    ) -> jax.Array:
        """Returns what a head is given under each of many skip masks.

        Args:
          images: as in `truncations`.
          skip_masks: likewise.
          train: likewise.

        Returns:
          [len(skip_masks), batch, channels of the last stage] float32: those that a stage lacks are
          zero.

        Raises:
          ValueError: as `truncations`.
        """
        return self._walked(images, skip_masks, train, lambda pooled: self._padded(pooled[0]))

    def _walked(
        self,
        images: jax.Array,
        skip_masks: tuple[SkipMask, ...],
        train: bool,
        read_out: Callable[[Reached], jax.Array],
    ) -> jax.Array:
        """What is read out under each mask; raises what `truncations` does."""
        blocks, stages = len(self.block_names), self._stage_of_blocks
        for mask in skip_masks:
            if len(mask) != blocks:
                raise ValueError(
                    f"skip_mask has {len(mask)} entries; stage_sizes={self.stage_sizes} has "
                    f"{blocks} blocks"
                )
        halvings = 2 ** (len(self.stage_sizes) - 1)
        if images.ndim != 4 or images.shape[1] % halvings or images.shape[2] % halvings:
            raise ValueError(
                f"images of shape {images.shape}: wanted [batch, height, width, colours] with "
                f"height and width divisible by {halvings}, one halving between stages"
            )

        # What is walked is the features, and the block that they come from; -1 is the stem.
        def between(i: int, reached: Reached) -> Reached:
            x, last = reached
            if stages[i] == (stages[i - 1] if i else 0):
                return x, last
            return halve(x, channels[stages[i]]), last

        channels = self.channels
        # The initial parameters are made block by block: they are the same with and without scan.
        scan = self.scan_stages and not self.is_initializing()
        return prefixes.walk(
            skip_masks,
            (self.stem(images.astype(self.dtype), train), -1),
            before=between,
            block=lambda i, reached: (self._run_block(i, reached[0], train), i),
            pool=lambda reached: (pool(reached[0]), reached[1]),
            read_out=read_out,
            loop=(lambda run, x, read: self._run_stage(run, x[0], train, read)) if scan else None,
            stages=stages,
        )

    def unit_macs(self, shape: tuple[int, int, int]) -> dict[str, int]:
        """Returns multiply-accumulates a unit, for one image.

        Convolutions and the head; a 3x3 convolution counts nine a channel pair and position, at the
        border too, as is the custom.

        Args:
          shape: (height, width, colours).
        """
        height, width, colours = shape
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

    def _run_block(self, i: int, x: jax.Array, train: bool) -> jax.Array:
        """Returns the features after a block: an array of the shape of `x`."""
        unit = getattr(self, self.block_names[i])
        if self.is_initializing():
            return unit(x, train)
        x, statistics = apply_block(self._unbound(i), unit.variables, x, train)
        put_statistics(unit, statistics)
        return x

    def _unbound(self, i: int) -> Block:
        return self._block(self.channels[self._stage_of_blocks[i]], parent=None)

    def _block(self, channels: int, **where: Any) -> Block:
        classes = self.num_classes if self.own_heads else 0
        return Block(channels, self.dtype, self.axis_name, classes, **where)

    def _run_stage(
        self, blocks: Sequence[int], x: jax.Array, train: bool, read: tuple[int, ...]
    ) -> tuple[Reached, list[Reached]]:
        """Returns the features after the last of these blocks, and pooled ones after some others.

        Args:
          blocks: indices, several; of one stage.
          x: [batch, height, width, channels].
          train: updates the blocks' running statistics.
          read: after which of the blocks, from 0, pooled features are wanted.

        Returns:
          An array of the shape of `x`; and [batch, channels] float32, one an entry of `read`; each
          with its block.
        """
        units = [getattr(self, self.block_names[i]) for i in blocks]
        block = self._unbound(blocks[0])

        def body(x, variables):
            x, statistics = apply_block(block, variables, x, train)
            return x, (statistics, pool(x) if read else None)

        stacked = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(unit.variables for unit in units)
        )
        x, (statistics, pooled) = jax.lax.scan(body, x, stacked)
        for i, unit in enumerate(units):
            one = functools.partial(jax.lax.index_in_dim, index=i, keepdims=False)
            put_statistics(unit, jax.tree.map(one, statistics))
        return (x, blocks[-1]), [(pooled[n], blocks[n]) for n in read]

    def _read_out(self, pooled: jax.Array, last: int) -> jax.Array:
        """Logits of a mean over the map of any stage, after a block; -1 is the stem.

        Average pooling again and again, then over the whole map, is one mean over the map: so the
        remaining transitions are the padding of channels alone.
        """
        if not self.own_heads:
            return self.head(self._padded(pooled)).astype(jnp.float32)
        if last < 0 or self.is_initializing():
            logits = self.head(pooled[:, : self.channels[0]])
        else:
            held = getattr(self, self.block_names[last]).variables["params"]["head"]
            head = nn.Dense(self.num_classes, dtype=self.dtype, parent=None)
            logits = head.apply({"params": held}, pooled)
        return logits.astype(jnp.float32)

    def _padded(self, pooled: jax.Array) -> jax.Array:
        missing = self.channels[-1] - pooled.shape[-1]
        return jnp.pad(pooled, ((0, 0), (0, missing)))

    def adopt(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the variables of a network that may lack own heads, as this one has them.

        What one head makes of the first channels is what own ones begin with: the same answers.

        Args:
          variables: {"params": ..., "batch_stats": ...}; unchanged.
        """
        params = dict(variables["params"])
        one, units = params.get("head", {}), self.block_names
        if (
            not self.own_heads
            or not all(isinstance(params.get(unit), Mapping) for unit in units)
            or any("head" in params[unit] for unit in units)
            or np.shape(one.get("kernel")) != (self.channels[-1], self.num_classes)
        ):
            return dict(variables)

        def cut(channels: int) -> dict[str, Any]:
            return {**one, "kernel": np.asarray(one["kernel"])[:channels]}

        for unit, stage in zip(units, self._stage_of_blocks, strict=True):
            params[unit] = {**params[unit], "head": cut(self.channels[stage])}
        return {**variables, "params": params | {"head": cut(self.channels[0])}}
