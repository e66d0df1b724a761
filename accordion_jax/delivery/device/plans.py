"""Plans of a device: made here, or by the endpoint and believed as far as the manifest goes."""

import dataclasses
from collections.abc import Callable, Mapping

from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.holding import Holding
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import CacheLimitError, TransportError
from accordion_jax.delivery.planner import Plan, Requirements, plan


def plan_of_endpoint(
    transport: HttpTransport,
    holding: Holding,
    requirements: Requirements,
    *,
    until_s: float,
    on_problem: Callable[[str], None],
) -> Plan:
    """Returns the endpoint's plan, or the one that is made here where that cannot be used.

    Args:
      transport: of an endpoint.
      holding: of the model that is fetched.
      requirements: of the device.
      until_s: moment of the transport's clock at which to plan here.
      on_problem: is told why the endpoint's cannot be used.
    """
    manifest, held = holding.manifest, holding.held
    try:
        document = transport.plan(requirements.to_dict(), held, until_s=until_s)
        digests = [each["sha256"] for each in document["missing"]]
        missing = tuple({sha256: manifest.by_sha256[sha256] for sha256 in digests}.values())
        name = document["configuration"]
        return Plan(
            configuration=name,
            missing=missing,
            transfer_bytes=sum(segment.size_bytes for segment in missing),
            expected_error=None if name is None else manifest.rows[name].top1_error,
            error_bound=document.get("error_bound"),
            expected_seconds=None,
            unmet=tuple(map(str, document["unmet"])),
            reasons=tuple(map(str, document["reasons"])),
        )
    except (TransportError, KeyError, TypeError) as error:
        on_problem(f"the endpoint's plan cannot be used ({error!r}); planning here")
        return plan(manifest, requirements, held)


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
