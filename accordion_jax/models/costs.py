"""What each unit of a network costs: parameters, bytes, multiply-accumulates."""

from typing import Any

import jax

from accordion_jax.depth import UnitCost
from accordion_jax.models.contract import Network


def unit_costs(
    model: Network, variables: dict[str, Any], shape: Any
) -> tuple[UnitCost, tuple[UnitCost, ...]]:
    """Returns the cost of the base, and of each block in the order of the forward pass.

    Bytes are those of the arrays themselves, running statistics included: what has to be sent.

    Args:
      model: gives the names of the units, and their multiply-accumulates.
      variables: {"params": ..., "batch_stats": ...}, one sub-tree a unit; arrays or their shapes.
      shape: of one prepared example, such as (height, width, colours), or a tree of shapes.
    """
    macs = model.unit_macs(shape)

    def cost(unit: str) -> UnitCost:
        sent = [tree.get(unit, {}) for tree in variables.values()]
        return UnitCost(
            parameters=sum(x.size for x in jax.tree.leaves(variables["params"].get(unit, {}))),
            size_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(sent)),
            macs=macs[unit],
        )

    base = sum((cost(unit) for unit in model.base_names), UnitCost(0, 0, 0))
    return base, tuple(cost(unit) for unit in model.block_names)
