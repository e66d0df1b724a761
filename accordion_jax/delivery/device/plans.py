"""Plans of a device, which it makes for itself, with the endpoint's planner."""

import dataclasses

from accordion_jax.delivery.device.holding import Holding
from accordion_jax.delivery.errors import CacheLimitError
from accordion_jax.delivery.planner import Plan, Requirements, plan


def base_at_least(holding: Holding, requirements: Requirements) -> Plan:
    """Returns the plan that is made here; a device with nothing to run at least tries the base.

    Where the plan says that not even the smallest configuration comes in time, the link may be
    better than the plan, and what arrives counts next time.

    Args:
      holding: of the model that is fetched.
      requirements: of the device.
    """
    made = plan(holding.manifest, requirements, holding.held)
    if holding.deepest is not None or made.unmet != ("deadline_s",):
        return made
    return dataclasses.replace(made, missing=holding.missing_of(holding.manifest.ladder[0]))


def check_fits(holding: Holding, target: Plan, limit_bytes: int | None) -> None:
    """Does nothing where a cache has room for what a plan wants.

    Args:
      holding: of the model that is fetched.
      target: what is wanted of it.
      limit_bytes: of the cache; None is no limit.

    Raises:
      CacheLimitError: it has not; names both sizes.
    """
    needed = holding.size_bytes + sum(segment.size_bytes for segment in target.missing)
    if limit_bytes is not None and needed > limit_bytes:
        raise CacheLimitError(
            f"configuration {target.configuration} needs {needed} bytes on the disk; the cache's "
            f"limit is {limit_bytes}. Raise it, or ask for less with max_bytes"
        )
