"""What a device sends to get a plan: read no further, and believed no more, than is safe."""

import dataclasses
import json
from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from accordion_jax.delivery.bundle.manifest import Manifest, is_digest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.endpoint.openapi import MAX_BODY_BYTES, MAX_HELD
from accordion_jax.delivery.planner import MOST, Plan, Requirements, plan
from accordion_jax.system.text import short


async def read_body(request: Request) -> bytes:
    """Returns the body of a request.

    Raises:
      HTTPException: 413, it is larger than MAX_BODY_BYTES.
    """
    too_large = HTTPException(
        413,
        f"the body has more than {MAX_BODY_BYTES} bytes; send only the digests of this model's "
        "segments",
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > MAX_BODY_BYTES):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


@dataclasses.dataclass(frozen=True)
class FrontRequest:
    """What a device says in its first request.

    Attributes:
      requirements: None asks for the smallest configuration.
      held: digests of segments that it has.
      manifest: model_id of a manifest that it has; None: none.
      wants_release: whether it wants to see who vouches for the model.
      part: digest of a segment, and the bytes of it that it has; None: of none.
    """

    requirements: Requirements | None
    held: frozenset[str]
    manifest: str | None
    wants_release: bool
    part: tuple[str, int] | None


def read_plan_request(body: bytes) -> tuple[Requirements, frozenset[str]]:
    """Returns what a device asks for, and the digests of what it holds.

    Raises:
      HTTPException: 400, it is not JSON; 422, it is no request for a plan: says why.
    """
    document = _object(body, ("requirements", "held"))
    return _requirements(document.get("requirements", {})), _held(document.get("held", []))


def read_front_request(body: bytes) -> FrontRequest:
    """Returns what a device says in its first request.

    Raises:
      HTTPException: 400, it is not JSON; 422, it is no such request: says why.
    """
    document = _object(body, ("requirements", "held", "manifest", "release", "part"))
    manifest, release = document.get("manifest"), document.get("release", False)
    if "manifest" in document and not _is_digest(manifest):
        raise HTTPException(422, f"manifest={short(manifest)} must be a model_id")
    if not isinstance(release, bool):
        raise HTTPException(422, f"release={short(release)} must be true or false")
    asked = document.get("requirements", {})
    return FrontRequest(
        _requirements(asked) if "requirements" in document else None,
        _held(document.get("held", [])),
        manifest,
        release,
        _part(document["part"]) if "part" in document else None,
    )


@dataclasses.dataclass(frozen=True)
class FirstPlan:
    """What is sent first.

    Attributes:
      plan: of the planner.
      segments: to send; more than those of the plan where that has none.
    """

    plan: Plan
    segments: tuple[Segment, ...]


def first_plan(
    manifest: Manifest, requirements: Requirements | None, held: Collection[str]
) -> FirstPlan:
    """Returns what to send first to a device.

    One that has nothing to run gets the smallest configuration, however slow its link is said to
    be: that may be wrong, and what arrives counts next time. It would ask for it next.

    Args:
      manifest: of the model.
      requirements: of the device; None asks for the smallest configuration.
      held: digests of the segments that it has.
    """
    smallest = plan(manifest, Requirements(max_error=1.0), held)
    made = smallest if requirements is None else plan(manifest, requirements, held)
    if made.unmet == ("deadline_s",) and not manifest.complete(held):
        return FirstPlan(made, smallest.missing)
    return FirstPlan(made, made.missing)


def _object(body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or document.keys() - set(names):
        listed = " and ".join([", ".join(map(repr, names[:-1])), repr(names[-1])])
        raise HTTPException(
            422, f"the body is {short(document)}; wanted an object with {listed} only"
        )
    return document


def _requirements(document: Any) -> Requirements:
    if not isinstance(document, dict):
        raise HTTPException(422, f"requirements={short(document)} must be an object")
    for name, value in document.items():
        if value is None:
            raise HTTPException(422, f"{short(name)} is null; leave it out instead")
    try:
        return Requirements.from_dict(document)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _held(held: Any) -> frozenset[str]:
    if not isinstance(held, list) or len(held) > MAX_HELD:
        raise HTTPException(422, f"held={short(held)} must be a list of at most {MAX_HELD} digests")
    for sha256 in held:
        if not _is_digest(sha256):
            raise HTTPException(
                422,
                f"held has {short(sha256)}; wanted 64 hexadecimal digits in lower case",
            )
    return frozenset(held)


def _part(document: Any) -> tuple[str, int]:
    wanted = f"part={short(document)} must be a segment's 'sha256' and its 'received_bytes'"
    if not isinstance(document, dict) or document.keys() != {"sha256", "received_bytes"}:
        raise HTTPException(422, wanted)
    sha256, count = document["sha256"], document["received_bytes"]
    is_count = isinstance(count, int | float) and not isinstance(count, bool)
    if not (_is_digest(sha256) and is_count and count == count // 1 and 0 <= count <= MOST):
        raise HTTPException(422, wanted)
    return sha256, int(count)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and is_digest(value)
