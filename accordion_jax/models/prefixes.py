"""The walk over skip masks that computes once what they have in common, for every family.

Masks that keep the same first blocks form a prefix tree: each block of a branch is computed once
for all masks of the branch. All prefixes of a block sequence cost one forward pass and a read-out
each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from accordion_jax.depth import SkipMask

# Runs several blocks in a row: (their indices, features, after which of them, counted from 0, what
# is read out is wanted) -> (features after the last, what is read out of each wanted one).
Loop = Callable[[Sequence[int], Any, tuple[int, ...]], tuple[Any, Sequence[Any]]]


def walk(
    skip_masks: Sequence[SkipMask],
    features: Any,
    *,
    block: Callable[[int, Any], Any],
    read_out: Callable[[Any], Any],
    before: Callable[[int, Any], Any] = lambda _, features: features,
    pool: Callable[[Any], Any] = lambda features: features,
    loop: Loop | None = None,
    stages: Sequence[int] = (),
) -> Any:
    """Returns what a network answers under each skip mask, computing shared blocks once.

    A block that masks reach on different features is computed once for each of them.

    Args:
      skip_masks: static; True skips that block.
      features: what the first block is given.
      block: (index of a block, features) -> features after it.
      read_out: what `pool` gives -> outputs, an array.
      before: (index of a block, features) -> features as that block takes them, whether it is kept
        or skipped: the transition between stages.
      pool: features -> what is read out of them.
      loop: runs the blocks that masks share in a row within a stage in one go, and pools what is
        read out inside it; None runs block by block.
      stages: with `loop`: the stage of each block.

    Returns:
      [len(skip_masks), ...], the outputs.

    Raises:
      ValueError: masks have different lengths; names both.
    """
    lengths = sorted({len(mask) for mask in skip_masks})
    if len(lengths) > 1:
        raise ValueError(f"skip masks must have one length; got {lengths[0]} and {lengths[-1]}")
    outputs: dict[SkipMask, Any] = {}
    # Groups of masks that have kept the same blocks so far: the next block, the features that they
    # share, and the masks.
    groups = [(0, features, tuple(dict.fromkeys(skip_masks)))]
    while groups:
        i, x, masks = groups.pop()
        # A mask that is read out needs no transition, so nothing is pooled for it alone.
        outputs |= {mask: read_out(pool(x)) for mask in masks if all(mask[i:])}
        masks = tuple(mask for mask in masks if not all(mask[i:]))
        if not masks:
            continue
        x = before(i, x)
        if skipping := tuple(mask for mask in masks if mask[i]):
            groups.append((i + 1, x, skipping))
        if keeping := tuple(mask for mask in masks if not mask[i]):
            run = _shared_run(keeping, i, stages) if loop else [i]
            if loop is None or len(run) == 1:
                groups.append((i + 1, block(i, x), keeping))
                continue
            ending = {
                mask: max(n for n, at in enumerate(run) if not mask[at])
                for mask in keeping
                if all(mask[run[-1] :])
            }
            x, pooled = loop(run, x, tuple(ending.values()))
            outputs |= {mask: read_out(each) for mask, each in zip(ending, pooled, strict=True)}
            going_on = tuple(mask for mask in keeping if mask not in ending)
            groups.append((run[-1] + 1, x, going_on))
    return jnp.stack([outputs[mask] for mask in skip_masks])


def _shared_run(masks: Sequence[SkipMask], first: int, stages: Sequence[int]) -> list[int]:
    """Returns the kept blocks of a stage that masks share from the first, up to where they part.

    A mask that keeps no more blocks parts nothing: it is read out on the way.
    """
    run = [first]
    for i in range(first + 1, len(stages)):
        skips = {mask[i] for mask in masks if not all(mask[i:])}
        if stages[i] != stages[first] or len(skips) != 1:
            break
        if skips == {False}:
            run.append(i)
    return run
