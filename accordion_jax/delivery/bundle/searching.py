"""Finds the order in which blocks and bits are sent, by what each saves of the error. NumPy only.

Blocks come in the order of the ladder, and bits after the block that they refine. What is open is
when it pays to send more bits of the blocks that are there, and when another block.

1. *Which bits first.* At full depth, each segment is refined by itself, and the loss that this
   saves a byte orders the refinements. The loss, since few answers change with one segment. Where
   there are several steps of bits, a second order has all refinements of a step before any of the
   next, which is better where each step was trained as one.
2. *The grid.* With the first r of these refinements, one pass gives the error of each depth, since
   truncations share what they have in common. So all pairs of a depth and an r are measured, with
   as many passes as there are refinements, for each order of them.
3. *The path.* Of all ways from the smallest model to the last, each step deeper or finer or both,
   that with the least mean error over the bytes that have arrived, evenly in their logarithm: a
   device on a slow link is as much worth as one on a fast link. What lies between two models of the
   way is sent blocks first, so that each of them runs, and does not count. It is the shortest way
   in a graph, not the steepest step each time: bits that save a little at once may be a burden to
   all that comes after them, where they were trained for the full depth alone. Of the ways of two
   grids the better one is taken.
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

# Bytes that come before all segments: headers and a manifest.
_BEFORE = 4096
# Columns of the grid at most: of more refinements several come together.
_COLUMNS = 40


def passes_of_search(chains: Chains) -> int:
    """Returns how many passes over the examples `find_order` makes."""
    steps = len(chains.bits) - 1
    refinements = steps * len(chains.names)
    if not refinements:
        return 0
    return refinements + steps + min(steps, 2) * len(_ends(steps, len(chains.names)))


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
    depths = [
        {BASE, *(block_names[block] for block in configuration.blocks)} for configuration in ladder
    ]

    def measured(steps: Mapping[str, int], masks: Sequence[SkipMask]) -> Sequence[Measured]:
        found = measure(steps, masks)
        on_pass()
        return found

    def way(refinements: Sequence[Item]) -> tuple[float, list[Item]]:
        """The mean error of the best order that sends these one after the other, and this order."""
        ends = _ends(len(chains.bits) - 1, len(names))
        errors = np.array(
            [
                [each.errors for each in measured(dict(refinements[:end]), ladder.skip_masks)]
                for end in ends
            ]
        ).T
        sets = [[_held(names, kept, refinements[:end]) for end in ends] for kept in depths]
        sizes = np.array(
            [[sum(chains.size_bytes(*item) for item in each) for each in row] for row in sets]
        )
        mean, states = path(errors, sizes)
        order: dict[Item, None] = {}
        for depth, column in states:
            order |= dict.fromkeys(sets[depth][column])
        return mean, list(order)

    if len(chains.bits) == 1:
        return [(name, 0) for name in names]
    by_gain = _refinements(chains, names, ladder.full.skip_mask, measured)
    orders = [by_gain]
    if len(chains.bits) > 2:
        orders.append(sorted(by_gain, key=lambda item: item[1]))
    return min(map(way, orders), key=lambda found: found[0])[1]


def path(errors: np.ndarray, sizes: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    """Returns the least mean error of any way, and its states from the smallest to the last.

    Args:
      errors: [depths, columns], of any unit.
      sizes: [depths, columns] bytes; grow along both.

    Returns:
      The mean is of errors times the logarithms of sizes that are on the way.
    """
    arrived = np.log(sizes + _BEFORE)
    least = np.zeros(errors.shape)
    after: dict[tuple[int, int], tuple[int, int]] = {}
    last = errors.shape[0] - 1, errors.shape[1] - 1
    for at in sorted(np.ndindex(*errors.shape), reverse=True):
        if at == last:
            continue
        costs = errors[at] * (arrived[at[0] :, at[1] :] - arrived[at]) + least[at[0] :, at[1] :]
        costs[0, 0] = np.inf  # where it is already
        # Of several that are as good the first, which is the nearest.
        deeper, finer = np.unravel_index(int(costs.argmin()), costs.shape)
        least[at] = costs[deeper, finer]
        after[at] = at[0] + int(deeper), at[1] + int(finer)
    found = [(0, 0)]
    while found[-1] != last:
        found.append(after[found[-1]])
    return float(least[0, 0]), found


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


def _ends(steps: int, segments: int) -> list[int]:
    """How many of the refinements are in, a column of the grid; also after each whole step."""
    refinements = steps * segments
    columns = min(refinements, _COLUMNS)
    evenly = {round(refinements * column / columns) for column in range(columns + 1)}
    return sorted(evenly | set(range(0, refinements, segments)))


def _held(names: Sequence[str], kept: set[str], refinements: Sequence[Item]) -> list[Item]:
    """What is there at a depth: blocks in their order, then the refinements of them."""
    return [
        *((name, 0) for name in names if name in kept),
        *(item for item in refinements if item[0] in kept),
    ]
