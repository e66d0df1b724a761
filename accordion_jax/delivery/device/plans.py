"""Plans of a device, which it makes for itself, with the endpoint's planner."""

import dataclasses
from collections.abc import Mapping

from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.holding import Holding
from accordion_jax.delivery.errors import CacheLimitError
from accordion_jax.delivery.planner import Plan, Requirements, plan


def base_at_least(holding: Holding, requirements: Requirements, begun: Mapping[str, int]) -> Plan:
    """Returns the plan that is made here; a device with nothing to run at least tries the base.

    Where the plan says that not even the smallest configuration comes in time, the link may be
    better than the plan, and what arrives counts next time.

    Args:
      holding: of the model that is fetched.
      requirements: of the device.
      begun: digests of segments of which a part is there, and its bytes.
    """
    made = plan(holding.manifest, requirements, holding.held, begun)
    if holding.complete or made.unmet != ("deadline_s",):
        return made
    return dataclasses.replace(made, missing=holding.missing_of(holding.manifest.ladder[0]))


def due(holding: Holding, made: Plan | None) -> str | None:
    """Returns the digest of the segment that comes next.

    Args:
      holding: of the model that is fetched.
      made: the last plan; without one, segments come in sending order.
    """
    planned = made.missing if made else ()
    missing = (segment.sha256 for segment in planned if segment.sha256 not in holding.held)
    return next(missing, holding.first_missing)


def begun(
    holding: Holding, cache: SegmentCache, waiting: Mapping[str | None, int]
) -> dict[str, int]:
    """Returns what is here of segments that are not whole, which need not come again.

    Args:
      holding: of the model that is fetched.
      cache: has the bytes of earlier attempts.
      waiting: digests of segments, and the bytes of them that will go there.
    """
    digests = {*waiting, holding.first_missing} - {None}
    return {
        sha256: cache.received_bytes(sha256) + waiting.get(sha256, 0)
        for sha256 in digests
        if sha256 is not None
    }


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
