"""Finds the order in which blocks and bits are sent, by what each saves of the error. NumPy only.

Blocks come in the order of the ladder, and bits after the block that they refine. What is open is
when it pays to send more bits of the blocks that are there, and when another block.

1. *Which bits first.* At full depth, each segment is refined by itself, and the loss that this
   saves a byte orders the refinements. The loss, since few answers change with one segment.
2. *The grid.* With the first r of these refinements, one pass gives the error of each depth, since
   truncations share what they have in common. So all pairs of a depth and an r are measured, with
   as many passes as there are refinements.
3. *The path.* From the smallest model on, the next one is that which saves the most errors a byte,
   of all that are deeper or finer: the lower convex hull of what can still be reached. What lies
   between is sent blocks first, so that each of them is a model that runs.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from accordion_jax.delivery.bundle.cutting import BASE
from accordion_jax.delivery.bundle.encoding import Measured
from accordion_jax.delivery.bundle.ordering import Item
from accordion_jax.delivery.bundle.passes_kept import Ask
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.depth import Ladder, SkipMask

# Columns of the grid at most: of more refinements several come together.
_COLUMNS = 40


def passes_of_search(chains: Chains) -> int:
    """Returns how many passes over the examples `find_order` makes."""
    refinements = (len(chains.bits) - 1) * len(chains.names)
    if not refinements:
        return 0
    return refinements + len(chains.bits) - 1 + len(_ends(refinements))


def find_order(
    chains: Chains,
    ladder: Ladder,
    block_names: Sequence[str],
    measure: Ask,
    on_pass: Callable[[], None] = lambda: None,
) -> list[Item]:
    """Returns the order in which all steps of all segments are sent.

    Args:
      chains: of the network.
      ladder: of the run.
      block_names: in the order of the forward pass.
      measure: (step of each segment, skip masks) -> what was counted of each mask, on examples that
        are not those of the table.
      on_pass: is called after each pass over the examples.
    """
    names = [BASE, *(block_names[block] for block in ladder.sending_order)]

    def measured(steps: Mapping[str, int], masks: Sequence[SkipMask]) -> Sequence[Measured]:
        found = measure(steps, masks)
        on_pass()
        return found

    refinements = _refinements(chains, names, ladder.full.skip_mask, measured)
    depths = [
        {BASE, *(block_names[block] for block in configuration.blocks)} for configuration in ladder
    ]
    ends = _ends(len(refinements)) if refinements else [0]
    errors = np.array(
        [
            [each.errors for each in measured(dict(refinements[:end]), ladder.skip_masks)]
            for end in ends
        ]
        if refinements
        else [[0] * len(ladder)]
    ).T
    sets = [[_held(names, kept, refinements[:end]) for end in ends] for kept in depths]
    sizes = np.array(
        [[sum(chains.size_bytes(*item) for item in each) for each in row] for row in sets]
    )
    order: dict[Item, None] = {}
    for depth, column in path(errors, sizes):
        order |= dict.fromkeys(sets[depth][column])
    return list(order)


def path(errors: np.ndarray, sizes: np.ndarray) -> list[tuple[int, int]]:
    """Returns the states of the lower hull, from the smallest to the last.

    Args:
      errors: [depths, columns], of any unit.
      sizes: [depths, columns] bytes; grow along both.
    """
    at = (0, 0)
    found = [at]
    last = tuple(size - 1 for size in errors.shape)
    while at != last:
        saved = errors[at] - errors[at[0] :, at[1] :]
        more = sizes[at[0] :, at[1] :] - sizes[at]
        slopes = np.where(more > 0, saved / np.maximum(more, 1), -np.inf)
        best = float(slopes.max())
        if best <= 0:  # nothing helps any more: what is left comes in its order
            at = last
        else:
            steps = np.argwhere(slopes == best)
            deeper, finer = min(steps.tolist(), key=lambda step: more[tuple(step)])
            at = at[0] + deeper, at[1] + finer
        found.append(at)
    return found


def _refinements(
    chains: Chains,
    names: Sequence[str],
    full: SkipMask,
    measured: Callable[[Mapping[str, int], Sequence[SkipMask]], Sequence[Measured]],
) -> list[Item]:
    """All refinements, by the loss that each saves a byte."""
    gains: dict[Item, float] = {}
    for step in range(1, len(chains.bits)):
        before = dict.fromkeys(names, step - 1)
        (coarse,) = measured(before, [full])
        for name in names:
            (fine,) = measured(before | {name: step}, [full])
            saved = coarse.cross_entropy - fine.cross_entropy
            gains[name, step] = saved / chains.size_bytes(name, step)
    order: list[Item] = []
    due = [(-gain, names.index(name), step) for (name, step), gain in gains.items() if step == 1]
    heapq.heapify(due)
    while due:
        _, place, step = heapq.heappop(due)
        item = names[place], step
        order.append(item)
        following = names[place], step + 1
        if following in gains:
            heapq.heappush(due, (-gains[following], place, step + 1))
    return order


def _ends(refinements: int) -> list[int]:
    """How many of the refinements are in, a column of the grid."""
    columns = min(refinements, _COLUMNS)
    return [round(refinements * column / columns) for column in range(columns + 1)]


def _held(names: Sequence[str], kept: set[str], refinements: Sequence[Item]) -> list[Item]:
    """What is there at a depth: blocks in their order, then the refinements of them."""
    return [
        *((name, 0) for name in names if name in kept),
        *(item for item in refinements if item[0] in kept),
    ]
