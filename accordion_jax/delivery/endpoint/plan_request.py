"""What a device sends to get a plan: read no further, and believed no more, than is safe."""

import json

from starlette.exceptions import HTTPException
from starlette.requests import Request

from accordion_jax.delivery.bundle.manifest import is_digest
from accordion_jax.delivery.endpoint.openapi import MAX_BODY_BYTES, MAX_HELD
from accordion_jax.delivery.planner import Requirements
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


def read_plan_request(body: bytes) -> tuple[Requirements, frozenset[str]]:
    """Returns what a device asks for, and the digests of what it holds.

    Raises:
      HTTPException: 400, it is not JSON; 422, it is no request for a plan: says why.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or document.keys() - {"requirements", "held"}:
        raise HTTPException(
            422,
            f"the body is {short(document)}; wanted an object with 'requirements' and 'held' only",
        )
    requirements, held = document.get("requirements", {}), document.get("held", [])
    if not isinstance(requirements, dict):
        raise HTTPException(422, f"requirements={short(requirements)} must be an object")
    for name, value in requirements.items():
        if value is None:
            raise HTTPException(422, f"{short(name)} is null; leave it out instead")
    if not isinstance(held, list) or len(held) > MAX_HELD:
        raise HTTPException(422, f"held={short(held)} must be a list of at most {MAX_HELD} digests")
    for sha256 in held:
        if not (isinstance(sha256, str) and is_digest(sha256)):
            raise HTTPException(
                422,
                f"held has {short(sha256)}; wanted 64 hexadecimal digits in lower case",
            )
    try:
        return Requirements.from_dict(requirements), frozenset(held)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
