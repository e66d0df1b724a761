"""Fuzzing of the endpoint from its own OpenAPI document.

schemathesis makes valid and invalid requests, and checks every answer: no 5xx, only documented
statuses, headers and bodies, invalid requests refused, valid ones taken.
"""

import dataclasses
import http.client
import json
import urllib.parse

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.openapi import openapi_document
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.planner import Requirements
from tests.delivery.live import serving
from tests.delivery.signing import Line
from tests.delivery.toys import make_parts

# An operation without parameters has no invalid requests.
OPERATIONS = [
    (path, method, mode)
    for path, methods in openapi_document()["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or "parameters" in operation
]
RANGES = ["bytes=0-", "bytes=-7", "bytes=1000000-", "lines=1-2", "bytes=5-1"]
# Statuses that the fuzzing must have seen, or it does not reach what it is to test.
REACHED = {
    ("manifest", GenerationMode.POSITIVE): {200, 404},
    ("manifest", GenerationMode.NEGATIVE): {400, 404},
    ("release", GenerationMode.POSITIVE): {200, 404},
    ("plan", GenerationMode.POSITIVE): {200, 404},
    ("plan", GenerationMode.NEGATIVE): {422},
    ("front", GenerationMode.POSITIVE): {200, 404},
    ("front", GenerationMode.NEGATIVE): {422},
    ("segment", GenerationMode.POSITIVE): {200, 206, 404, 416},
    ("stream", GenerationMode.POSITIVE): {200, 206, 404, 416},
    ("stream", GenerationMode.NEGATIVE): {400},
}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """(schema of a live application, manifest of its one model)."""
    bundle = write_bundle(tmp_path_factory.mktemp("bundles"), **make_parts())
    Line.start(tmp_path_factory.mktemp("keys")).sign(bundle)
    app = make_app(BundleStore(str(bundle.parent)))
    return schemathesis.openapi.from_asgi("/openapi.json", app), read_manifest(bundle)


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    bundle = write_bundle(tmp_path_factory.mktemp("bundles"), **make_parts())
    with serving(make_app(BundleStore(str(bundle.parent), refresh_s=60))) as url:
        address = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        yield connection
        connection.close()


@st.composite
def aimed(draw, operation, mode, manifest):
    """A request of schemathesis whose valid parts mostly name what there is.

    Random digests are of no model, and all that lies behind would never be reached.
    """
    case = draw(operation.as_strategy(generation_mode=mode))
    if draw(st.integers(0, 3)) == 0:
        return case
    digests = st.sampled_from(list(manifest.by_sha256))
    components = case.meta.components.items()
    valid = {where.value for where, what in components if what.mode is GenerationMode.POSITIVE}
    if "path" in valid:
        known = {"model_id": manifest.model_id, "sha256": draw(digests)}
        case.path_parameters |= {name: known[name] for name in case.path_parameters}
    if "query" in valid and "line" in case.query:
        case.query["line"] = draw(st.sampled_from(["toy", "other"]))
    elif "query" in valid and "/stream" in operation.path:
        case.query["segments"] = ",".join(draw(st.lists(digests, min_size=1, unique=True)))
    if "header" in valid:
        case.headers["Range"] = draw(st.sampled_from(RANGES))
        case.headers.pop("If-None-Match", None)
        case.headers.pop("If-Range", None)
    return case


@pytest.mark.parametrize(("path", "method", "mode"), OPERATIONS)
def test_every_answer_is_as_documented(api, path, method, mode):
    schema, manifest = api
    operation = schema[path][method]
    statuses = set()

    @hypothesis.given(aimed(operation, mode, manifest))
    @hypothesis.settings(
        max_examples=300 if path.endswith(("/plan", "/front")) else 80,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def fuzz(case):
        response = case.call()
        # Whether a range has its place in a segment is not for a schema to say.
        excluded = [positive_data_acceptance] if response.status_code == 416 else []
        case.validate_response(response, excluded_checks=excluded)
        statuses.add(response.status_code)

    fuzz()
    assert statuses >= REACHED.get((operation.definition.raw["operationId"], mode), set())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = [field.name for field in dataclasses.fields(Requirements)]


ASKED = {
    "requirements": st.dictionaries(st.sampled_from([*NAMES, "x"]), VALUES) | VALUES,
    "held": VALUES,
}
PARTS = st.fixed_dictionaries({"sha256": VALUES, "received_bytes": VALUES})


@hypothesis.given(st.fixed_dictionaries({}, optional=ASKED) | VALUES)
@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_json_gets_a_plan_or_a_reason(connection, body):
    # As Python writes it, NaN and Infinity included, which are no JSON.
    connection.request("POST", "/v1/models/latest/plan", body=json.dumps(body))
    response = connection.getresponse()
    document = json.loads(response.read())
    assert response.status in (200, 400, 422)
    assert ("error" in document) == (response.status != 200)


@hypothesis.given(
    st.fixed_dictionaries(
        {},
        optional=ASKED | {"manifest": VALUES, "release": VALUES, "part": PARTS | VALUES},
    )
    | VALUES
)
@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_json_gets_a_front_or_a_reason(connection, body):
    connection.request("POST", "/v1/models/latest/front", body=json.dumps(body))
    response = connection.getresponse()
    content = response.read()
    assert response.status in (200, 400, 422)
    if response.status == 200:
        assert content.startswith(b"accfrnt")
    else:
        assert json.loads(content)["error"]
