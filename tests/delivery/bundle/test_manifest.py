import json

import jsonschema
import pytest

from accordion_jax.delivery.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_VALUES,
    Manifest,
    canonical_json,
    digest,
    is_digest,
    manifest_schema,
)
from accordion_jax.delivery.errors import ManifestError
from tests.delivery.toys import make_manifest


@pytest.fixture
def manifest():
    return make_manifest([100, 50, 60], [0.9, 0.3, 0.1])


def changed(manifest, change, *, sign=True):
    """The manifest's bytes after ``change(document)``, with a right model_id if `sign`."""
    document = json.loads(manifest.to_bytes())
    change(document)
    if sign:
        content = {k: v for k, v in document.items() if k != "model_id"}
        document["model_id"] = digest(canonical_json(content))
    return json.dumps(document).encode()


def test_bytes_round_trip_and_order_and_spaces_do_not_matter(manifest):
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    pretty = json.dumps(json.loads(manifest.to_bytes()), indent=3).encode()
    assert Manifest.from_bytes(pretty, expected_id=manifest.model_id).to_bytes() == (
        manifest.to_bytes()
    )


def test_id_is_the_digest_of_everything_else(manifest):
    other = make_manifest([100, 50, 60], [0.9, 0.3, 0.1], provenance={"run": "another"})
    assert other.model_id != manifest.model_id
    assert make_manifest([100, 50, 60], [0.9, 0.3, 0.1]).model_id == manifest.model_id


def test_views(manifest):
    first, second, third = (segment.sha256 for segment in manifest.segments)
    assert manifest.size_bytes == 210
    assert list(manifest.by_name) == ["base", "block01", "block02"]
    assert manifest.deepest_held({first, third}) == manifest.ladder[0]
    assert manifest.deepest_held({first, second, "f" * 64}) == manifest.ladder[1]
    assert manifest.deepest_held({second}) is None
    assert manifest.rows["toy-1"].top1_error == 0.3
    assert manifest.collection("norm1/mean") == "batch_stats"
    assert manifest.collection("mean/kernel") == "params"


def test_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


def _set(*path, to):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", to="zip"), "wanted 'accordion-bundle'"),
        (_set("format_version", to=2), "format_version=2; this version of accordion_jax reads 1"),
        (_set("format_version", to=True), "format_version=True"),
        (_set("segments", 1, "sha256", to="../../etc/passwd"), "segments/1/sha256"),
        (_set("segments", 1, "size_bytes", to=0), "segments/1/size_bytes"),
        (_set("segments", 1, "size_bytes", to=-5), "segments/1/size_bytes"),
        (_set("segments", 1, "tensor_bytes", to=51), "tensor_bytes=51, more than"),
        (_set("segments", 1, "name", to="a/b"), "segments/1/name"),
        (_set("segments", 1, "name", to="base"), "segments has two entries named 'base'"),
        (_set("segments", 1, "depends_on", to=["nothing"]), "depends on 'nothing'"),
        (_set("segments", 1, "depends_on", to=["block02"]), "not sent before it"),
        (_set("segments", to=[]), "segments is []"),
        (_set("ladder", 1, "name", to="toy-0"), "ladder has two entries named 'toy-0'"),
        (
            _set("ladder", 1, "segments", to=["base", "block02"]),
            "wanted the first 2 of the sending",
        ),
        (_set("ladder", 1, "segments", to=["base"]), "must need more segments than 'toy-0'"),
        (_set("ladder", 1, "skip_mask", to=[False]), "skip mask of 'toy-1'"),
        (_set("ladder", 2, "skip_mask", to=[True, True]), "skip mask of 'toy-2'"),
        (_set("table", "rows", 0, "top1_error", to=1.5), "table/rows/0/top1_error"),
        (_set("table", "rows", 0, "configuration", to="other"), "look-up table has rows"),
        (_set("table", "schema_version", to=9), "schema_version=9"),
        (_set("model", to={"family": "toy"}), "model is"),
        (_set("pickle", to="gASV"), "additionalProperties"),
        # An end of line passes `$` in many languages, and names another file.
        (_set("segments", 1, "sha256", to="0" * 64 + "\n"), "segments/1/sha256"),
        (_set("segments", 1, "sha256", to="0" * 63 + "\n"), "segments/1/sha256"),
        (_set("segments", 1, "name", to="block01\n"), "segments/1/name"),
        (_set("ladder", 1, "name", to="toy-1\n"), "ladder/1/name"),
        (_set("follows", to="0" * 64 + "\n"), "follows"),
        (_set("segments", 1, "size_bytes", to=10**400), "segments/1/size_bytes"),
        (_set("segments", 1, "depends_on", to=["base", 7]), "segments/1/depends_on/1"),
        (_set("ladder", 1, "skip_mask", to=[False, 1]), "ladder/1/skip_mask/1"),
        (_set("ladder", 1, "segments", to=["base", ["block01"]]), "ladder/1/segments/1"),
        (_set("ladder", 1, "segments", to=[]), "ladder/1/segments"),
        (_set("segments", to={"0": {}}), "segments is"),
        (_set("ladder", to=[7]), "ladder/0 is 7"),
        (_set("table", "rows", 0, "macs", to=10**400), "table/rows/0/macs"),
        (lambda d: d["ladder"].pop(), "no configuration needs segment 'block02'"),
    ],
)
def test_inconsistent_manifests_are_refused_by_name(manifest, change, message):
    with pytest.raises(ManifestError) as error:
        Manifest.from_bytes(changed(manifest, change), source="m.json")
    assert message in str(error.value)
    assert "m.json" in str(error.value)


def test_two_sizes_of_one_digest_are_refused(manifest):
    def change(document):
        document["segments"][2]["sha256"] = document["segments"][1]["sha256"]

    with pytest.raises(ManifestError, match="two segments have sha256="):
        Manifest.from_bytes(changed(manifest, change))


def test_changed_content_is_noticed(manifest):
    data = changed(manifest, _set("provenance", to={"run": "forged"}), sign=False)
    with pytest.raises(ManifestError, match="changed after it was written"):
        Manifest.from_bytes(data)
    with pytest.raises(ManifestError, match="wanted 0000"):
        Manifest.from_bytes(manifest.to_bytes(), expected_id="0" * 64)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"null", b'{"format": NaN}', b"[" * 100_000, b"1" * 5000],
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_numbers_that_are_not_finite_are_refused(manifest):
    for value in (b"1e999", rb'"\ud800"'):
        data = manifest.to_bytes().replace(b'"run":"toy"', b'"run":' + value)
        with pytest.raises(ManifestError, match="JSON cannot carry"):
            Manifest.from_bytes(data)
    with pytest.raises(ManifestError, match="finite JSON"):
        make_manifest([100], [0.5], provenance={"run": float("nan")})
    with pytest.raises(ManifestError, match="JSON values"):
        make_manifest([100], [0.5], provenance={"run": object()})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" " * MAX_MANIFEST_BYTES + b"{}", "16777218 bytes; a manifest has at most 16777216"),
        (b"[" + b"0," * MAX_VALUES + b"0]", "values; a manifest has at most 524288"),
        (b"[" * (MAX_VALUES + 1), "values; a manifest has at most"),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_parsed(monkeypatch, data, message):
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ManifestError, match=message):
        Manifest.from_bytes(data)


def test_nesting_is_bounded_by_an_error(manifest):
    for deep in (b"[" * 900 + b"]" * 900, b"[" * 200_000 + b"]" * 200_000):
        data = manifest.to_bytes().replace(b'"run":"toy"', b'"run":' + deep)
        with pytest.raises(ManifestError):
            Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        _set("segments", to=[0] * 300_000),
        _set("ladder", 0, "skip_mask", to=[0] * 300_000),
        _set("segments", 0, "depends_on", to=["nothing"] * 300_000),
        _set("ladder", to=[[]] * 100_000),
        _set("model", "input", to={"shape": [1] * 300_000}),
        _set("model", "classes", to=[""] * 300_000),
        _set("model", "collections", to={"x": [""] * 300_000}),
        _set("table", "rows", to=[{}] * 100_000),
    ],
)
def test_the_validator_sees_no_long_list(manifest, change, monkeypatch):
    """What it takes grows with the values that it is given, at 10 to 60 us each."""
    seen = 0
    is_type = jsonschema.TypeChecker.is_type

    def counted(self, instance, type):
        nonlocal seen
        seen += 1
        return is_type(self, instance, type)

    monkeypatch.setattr(jsonschema.TypeChecker, "is_type", counted)
    with pytest.raises(ManifestError) as error:
        Manifest.from_bytes(changed(manifest, change))
    assert len(str(error.value)) < 1000
    assert 0 < seen < 10_000


def test_digests():
    assert is_digest(digest(b"x"))
    assert not is_digest(digest(b"x").upper())
    assert not is_digest(digest(b"x") + "\n")
    assert not is_digest("../" + digest(b"x")[3:])
