"""What is kept of a model: ladders of skip masks, policies over them, and the look-up table.

Pure Python and NumPy: a device that runs another framework can import this room without JAX.
"""

from accordion_jax.depth.bounds import wilson_interval
from accordion_jax.depth.ladder import SCHEMES, Configuration, Ladder, SkipMask, make_ladder
from accordion_jax.depth.policy import (
    POLICIES,
    Policy,
    draw,
    full_or_uniform,
    make_policy,
    policy_fields,
)
from accordion_jax.depth.row import Row, UnitCost, derive_row, make_row
from accordion_jax.depth.table import LookupTable

__all__ = [
    "POLICIES",
    "SCHEMES",
    "Configuration",
    "Ladder",
    "LookupTable",
    "Policy",
    "Row",
    "SkipMask",
    "UnitCost",
    "derive_row",
    "draw",
    "full_or_uniform",
    "make_ladder",
    "make_policy",
    "make_row",
    "policy_fields",
    "wilson_interval",
]
