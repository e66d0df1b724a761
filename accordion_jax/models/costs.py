"""What each unit of a model costs: parameters, bytes, multiply-accumulates."""

from typing import Any

import jax

from accordion_jax.depth import UnitCost
from accordion_jax.models import ResNet


def unit_costs(
    model: ResNet, variables: dict[str, Any], image_shape: tuple[int, int, int]
) -> tuple[UnitCost, tuple[UnitCost, ...]]:
    """Returns the cost of the base, and of each block in the order of the forward pass.

    Bytes are those of the arrays themselves, running statistics included: what has to be sent.

    Args:
      model: gives the names of the units, and their multiply-accumulates.
      variables: {"params": ..., "batch_stats": ...}, one sub-tree a unit; arrays or their shapes.
      image_shape: (height, width, colours).
    """
    macs = model.unit_macs(image_shape)

    def cost(unit: str) -> UnitCost:
        params = jax.tree.leaves(variables["params"][unit])
        stats = jax.tree.leaves(variables.get("batch_stats", {}).get(unit, {}))
        return UnitCost(
            parameters=sum(x.size for x in params),
            size_bytes=sum(x.size * x.dtype.itemsize for x in (*params, *stats)),
            macs=macs[unit],
        )

    base = sum((cost(unit) for unit in model.base_names), UnitCost(0, 0, 0))
    return base, tuple(cost(unit) for unit in model.block_names)
