"""The OpenAPI document of the endpoint, written by hand so that it says exactly what is done."""

import importlib.metadata
from typing import Any

from accordion_jax.delivery import planner
from accordion_jax.delivery.bundle.manifest import FORMAT_VERSION, manifest_schema
from accordion_jax.depth.bounds import MOST_CONFIDENCE

MAX_BODY_BYTES = 1024 * 1024
MAX_HELD = 10_000
MAX_STREAM_SEGMENTS = 900  # a request line of 64 KB holds so many digests

_DIGEST = {"type": "string", "maxLength": 64, "pattern": "^[0-9a-f]{64}$"}
_JSON = "application/json"
_BYTES = "application/octet-stream"


def openapi_document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document."""
    model_id = _parameter("path", "model_id", "Of a model.", _DIGEST)
    or_latest = _parameter(
        "path",
        "model_id",
        "Of a model, or `latest`.",
        {"anyOf": [{"const": "latest"}, _DIGEST]},
    )
    line = _parameter(
        "query",
        "line",
        "With `latest`: the highest version of this line, by the releases that lie in the bundles.",
        {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
    )
    none_match = _parameter(
        "header", "If-None-Match", "Entity tags that the client has: 304 if one is current."
    )
    sha256 = _parameter("path", "sha256", "Of a segment of the model.", _DIGEST)
    segments = _parameter(
        "query",
        "segments",
        "Digests of segments of the model, each once, in the order in which to send them.",
        {
            "type": "array",
            "items": _DIGEST,
            "minItems": 1,
            "maxItems": MAX_STREAM_SEGMENTS,
            "uniqueItems": True,
        },
    ) | {"style": "form", "explode": False, "required": True}
    ranges = [
        none_match,
        _parameter("header", "Range", "One range of bytes. Anything else is ignored."),
        _parameter("header", "If-Range", "The range counts only if this entity tag is current."),
    ]
    manifest = {
        "200": _answer(
            "The manifest: see manifest.schema.json in the package. Never changes for a digest.",
            {_JSON: {"$ref": "#/components/schemas/Manifest"}},
            "ETag",
            "Cache-Control",
        ),
        "304": _answer("The client has it.", None, "ETag", "Cache-Control"),
        **_errors(400, 404, 503),
    }
    release = {
        "200": _answer(
            "The signed release and the trust file: see docs/bundle_format.md.",
            {_JSON: {"$ref": "#/components/schemas/Release"}},
            "ETag",
            "Cache-Control",
        ),
        "304": _answer("The client has it.", None, "ETag", "Cache-Control"),
        **_errors(404, 503),
    }
    sent = {
        "200": _answer(
            "The bytes.", {_BYTES: {}}, "ETag", "Cache-Control", "Content-Length", "Accept-Ranges"
        ),
        "206": _answer(
            "The range of the bytes.", {_BYTES: {}}, "ETag", "Cache-Control", "Content-Range"
        ),
        "304": _answer("The client has them.", None, "ETag", "Cache-Control"),
        "416": _answer("No such range.", _error_content(), "Content-Range"),
        **_errors(404, 503),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Accordion network endpoint",
            "version": _version(),
            "description": "Plans which part of a model a device should get, and sends it. Every "
            "error is a JSON object with one text, `error`.",
        },
        "paths": {
            "/": {"get": _operation("page", "A page to try the planner.", _page())},
            "/page.css": {"get": _operation("style", "Its style.", _page("text/css"))},
            "/page.js": {"get": _operation("script", "Its script.", _page("text/javascript"))},
            "/openapi.json": {
                "get": _operation(
                    "openapi",
                    "This document.",
                    {"200": _answer("It.", {_JSON: {"type": "object"}})},
                )
            },
            "/healthz": {
                "get": _operation(
                    "health",
                    "Whether the bundles can be read, and which cannot be sent, or not whole.",
                    {
                        "200": _answer("They can.", {_JSON: _ref("Health")}),
                        **_errors(503),
                    },
                )
            },
            "/metrics": {
                "get": _operation(
                    "metrics",
                    "Counters for Prometheus.",
                    {"200": _answer("Text.", {"text/plain": {"schema": {"type": "string"}}})},
                )
            },
            "/v1/models": {
                "get": _operation(
                    "models",
                    "All models, the latest first.",
                    {"200": _answer("The list.", {_JSON: _ref("Models")}), **_errors(503)},
                )
            },
            "/v1/models/{model_id}": _get_and_head(
                "manifest", "The manifest of a model.", manifest, [or_latest, line, none_match]
            ),
            "/v1/models/{model_id}/release": _get_and_head(
                "release",
                "Who answers for a model: its signed release, not checked here.",
                release,
                [model_id, none_match],
            ),
            "/v1/models/{model_id}/front": {
                "post": _operation(
                    "front",
                    "All that a device wants first, in one answer: manifest, release, segments.",
                    {
                        "200": _answer(
                            "A front: see docs/bundle_format.md.",
                            {_BYTES: {}},
                            "Cache-Control",
                            "Content-Length",
                        ),
                        **_errors(400, 404, 413, 422, 503),
                    },
                    [or_latest, line],
                )
                | {"requestBody": {"required": True, "content": {_JSON: _ref("FrontRequest")}}}
            },
            "/v1/models/{model_id}/plan": {
                "post": _operation(
                    "plan",
                    "Which configuration to send, and what of it is missing.",
                    {
                        "200": _answer("The plan.", {_JSON: _ref("Plan")}),
                        **_errors(400, 404, 413, 422, 503),
                    },
                    [or_latest],
                )
                | {"requestBody": {"required": True, "content": {_JSON: _ref("Request")}}}
            },
            "/v1/models/{model_id}/segments/{sha256}": _get_and_head(
                "segment", "One segment.", sent, [model_id, sha256, *ranges]
            ),
            "/v1/models/{model_id}/stream": _get_and_head(
                "stream",
                "Several segments, one after another. A cut stream is resumed with Range.",
                sent | _errors(400),
                [model_id, segments, *ranges],
            ),
        },
        "components": {"schemas": _schemas()},
    }


def _schemas() -> dict[str, Any]:
    count = {"type": "integer", "minimum": 0}
    number = {"type": "number", "minimum": 0, "maximum": planner.MOST}
    segment = {"name": {"type": "string"}, "sha256": _DIGEST, "size_bytes": count}
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Health": _object(
            {
                "status": {"enum": ["ok", "degraded"]},
                "models": count,
                "skipped": {"type": "object", "additionalProperties": {"type": "string"}},
                "broken": {"type": "object", "additionalProperties": {"type": "string"}},
            }
        ),
        "Models": _object(
            {
                "models": {
                    "type": "array",
                    "items": _object(
                        {
                            "model_id": _DIGEST,
                            "family": {"type": "string"},
                            "configurations": count,
                            "segments": count,
                            "size_bytes": count,
                            "follows": {"anyOf": [{"type": "null"}, _DIGEST]},
                            "created": {"type": ["string", "null"], "format": "date-time"},
                            "line": {"type": ["string", "null"]},
                            "version": {"type": ["integer", "null"], "minimum": 1},
                        }
                    ),
                }
            }
        ),
        "Manifest": {
            "type": "object",
            "required": list(manifest_schema()["required"]),
            "properties": {"format_version": {"const": FORMAT_VERSION}, "model_id": _DIGEST},
        },
        "Release": {
            "type": "object",
            "required": ["format", "format_version", "release", "roots"],
            "properties": {
                "format": {"const": "accordion-release"},
                "format_version": {"const": 1},
                "release": {"type": "object"},
                "roots": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            },
        },
        "Requirements": {
            "type": "object",
            "additionalProperties": False,
            # A deadline says nothing about bytes without the speed of the link.
            "dependentRequired": {"deadline_s": ["throughput_bps"]},
            "properties": {
                "max_bytes": count,
                "deadline_s": number,
                "throughput_bps": number,
                "max_error": {"type": "number", "minimum": 0, "maximum": 1},
                "max_macs": count,
                "max_memory_bytes": count,
                "confidence": {"type": "number", "minimum": 0.5, "maximum": MOST_CONFIDENCE},
            },
        },
        "Request": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "requirements": {"$ref": "#/components/schemas/Requirements"},
                "held": {"type": "array", "items": _DIGEST, "maxItems": MAX_HELD},
            },
        },
        "FrontRequest": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                # Without them: the smallest configuration.
                "requirements": {"$ref": "#/components/schemas/Requirements"},
                "held": {"type": "array", "items": _DIGEST, "maxItems": MAX_HELD},
                # Of a model whose manifest the device has.
                "manifest": _DIGEST,
                "release": {"type": "boolean"},
                # A segment of which the device has some bytes already.
                "part": _object(
                    {"sha256": _DIGEST, "received_bytes": count | {"maximum": planner.MOST}}
                ),
            },
        },
        "Plan": _object(
            {
                "model_id": _DIGEST,
                "configuration": {"type": ["string", "null"]},
                "missing": {"type": "array", "items": _object(segment)},
                "transfer_bytes": count,
                "expected_error": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                "error_bound": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                "expected_seconds": {"type": ["number", "null"], "minimum": 0},
                "unmet": {
                    "type": "array",
                    "items": {
                        "enum": [
                            "max_macs",
                            "max_memory_bytes",
                            "max_bytes",
                            "deadline_s",
                            "max_error",
                        ]
                    },
                },
                "reasons": {"type": "array", "items": {"type": "string"}},
            }
        ),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def _ref(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _parameter(where: str, name: str, text: str, schema: Any = None) -> dict[str, Any]:
    parameter = {"in": where, "name": name, "description": text}
    return parameter | {"required": where == "path", "schema": schema or {"type": "string"}}


def _operation(
    name: str,
    summary: str,
    responses: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    operation = {"operationId": name, "summary": summary, "responses": responses}
    return operation | ({"parameters": parameters} if parameters else {})


def _get_and_head(
    name: str, summary: str, responses: dict[str, Any], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    head = {
        status: {key: value for key, value in answer.items() if key != "content"}
        for status, answer in responses.items()
        if status not in ("206", "416")  # HTTP defines Range for GET alone
    }
    return {
        "get": _operation(name, summary, responses, parameters),
        "head": _operation(f"{name}_head", f"The headers alone: {summary}", head, parameters),
    }


def _answer(text: str, content: dict[str, Any] | None, *headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": text}
    if content is not None:
        answer["content"] = {
            kind: {"schema": schema} if "$ref" in schema or "type" in schema else schema
            for kind, schema in content.items()
        }
    if headers:
        answer["headers"] = {
            name: {"required": True, "schema": {"type": "string"}} for name in headers
        }
    return answer


def _error_content() -> dict[str, Any]:
    return {_JSON: {"$ref": "#/components/schemas/Error"}}


def _errors(*statuses: int) -> dict[str, Any]:
    texts = {
        400: "The request cannot be read.",
        404: "No such model or segment.",
        413: f"The body has more than {MAX_BODY_BYTES} bytes.",
        422: "The request is read, and asks for something that cannot be.",
        503: "The bundle's files are damaged or cannot be read.",
    }
    return {str(status): _answer(texts[status], _error_content()) for status in statuses}


def _page(kind: str = "text/html") -> dict[str, Any]:
    return {"200": _answer("Text.", {kind: {"schema": {"type": "string"}}})}


def _version() -> str:
    try:
        return importlib.metadata.version("accordion_jax")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "0"
