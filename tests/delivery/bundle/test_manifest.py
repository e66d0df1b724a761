import base64
import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from tests.delivery.toys import make_chained, make_manifest


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
    assert manifest.complete({first, third}) == manifest.ladder[:1]
    assert manifest.complete({first, second, "f" * 64}) == (manifest.ladder[1], manifest.ladder[0])
    assert manifest.complete({second}) == ()
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


def _drop_last(group):
    def change(document):
        for column in document[group].values():
            column.pop()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", to="zip"), "wanted 'accordion-bundle'"),
        (_set("format_version", to=1), "write the bundle again from its run"),
        (_set("format_version", to=3), "format_version=3; this version of accordion_jax reads 2"),
        (_set("format_version", to=True), "format_version=True"),
        (_set("units", "name", 1, to="a/b"), "units/name/1 is 'a/b'; wanted a name"),
        (_set("units", "name", 1, to="base"), "segments has two entries named 'base'"),
        # An end of line passes `$` in many languages, and names another file.
        (_set("units", "name", 1, to="block01\n"), "units/name/1"),
        (_set("units", "layout", 1, to=9), "units/layout/1 is 9; there are 3"),
        (_set("units", "layout", to=[0]), "columns of units have"),
        (_set("segments", "unit", 1, to=7), "segments/unit/1 is 7; there are 3"),
        (_set("segments", "unit", 1, to=-1), "segments/unit/1 is -1; wanted an index"),
        (_set("segments", "unit", 2, to=1), "'block01.None' refines a safetensors file"),
        (_set("segments", "size_bytes", 1, to=0), "segments/size_bytes/1 is 0; wanted"),
        (_set("segments", "size_bytes", 1, to=10**400), "segments/size_bytes/1"),
        (_set("segments", "size_bytes", 1, to=2**53 - 1), "all segments have size_bytes="),
        (_set("segments", "size_bytes", 1, to=1.0), "segments/size_bytes/1 is 1.0"),
        (_set("segments", "bits", 1, to=9), "segments/bits/1 is 9; wanted 1 to 8, 16, 32 or null"),
        (_set("segments", "bits", to=[]), "columns of segments have"),
        (_set("segments", "sha256", to="../../etc/passwd"), "segments/sha256 is no base64"),
        (_set("segments", "sha256", to="AAAA"), "segments/sha256 has 3 bytes; wanted 32 of each"),
        (_set("segments", "sha256", to=7), "segments/sha256 is 7"),
        (_set("segments", to={}), "segments is {}"),
        (_set("layouts", 1, to=51), "arrays of 51 bytes, more than its file's size_bytes=50"),
        (_set("layouts", 1, to=0), "layouts/1 is 0; wanted tensors, or how many bytes"),
        (_set("layouts", 1, to=[["kernel"]]), "is no layout"),
        (_set("layouts", 1, to=[["kernel", [-1]]]), "wanted at most 16 whole numbers"),
        (_set("layouts", 1, to=[["k", [4]]]), "'block01' has a layout and no bits"),
        (_set("layouts", to=[100, 50, 60, 7]), "says a thing twice or in another form"),
        (_set("stage_sizes", to=[1]), "depths/skip_mask/0 has 2 blocks; stage_sizes has 1"),
        (_set("depths", "skip_mask", 1, to="0x"), "depths/skip_mask/1 is '0x'; wanted a text"),
        (_set("depths", "skip_mask", 1, to="0"), "depths/skip_mask/1 has 1 blocks; stage_sizes"),
        (_set("depths", "skip_mask", 2, to="11"), "skip mask of 'toy-2' must keep all"),
        (_set("depths", "macs", 1, to=-(10**6)), "depths/macs adds up to -999000 at 1"),
        (_set("depths", "macs", 0, to=10**400), "depths/macs/0"),
        (_set("depths", "parameters", 1, to=1.5), "depths/parameters/1 is 1.5"),
        (_set("ladder", "name", 1, to="toy-0"), "ladder has two entries named 'toy-0'"),
        (_set("ladder", "name", 1, to="toy-1\n"), "ladder/name/1"),
        (_set("ladder", "depth", 1, to=3), "ladder/depth/1 is 3; there are 3"),
        (_set("ladder", "segments", 1, to=[0, 1]), "says a thing twice or in another form"),
        (_set("ladder", "segments", 1, to=[1, 0]), "ladder/segments/1 must name segments in"),
        (_set("ladder", "segments", 1, to=[0, 9]), "ladder/segments/1 is 9; there are 3"),
        (_set("ladder", "segments", 1, to=[0, "1"]), "ladder/segments/1 is [0, '1']"),
        (_set("ladder", "segments", 0, to=[1]), "'toy-0' lacks the first segment, 'base'"),
        (_set("ladder", "segments", 1, to=0), "ladder/segments/1 is 0; wanted how many"),
        (_set("ladder", "segments", 1, to=[]), "ladder/segments/1 is []"),
        (_set("ladder", "segments", 1, to=4), "ladder/segments/1 is 3; there are 3"),
        (_set("ladder", "segments", 1, to=1), "'toy-1' must need more segments than 'toy-0'"),
        (_set("ladder", "errors", 0, to=1001), "ladder/errors/0 is 1001, of 1000 examples"),
        (_set("ladder", "examples", 0, to=0), "ladder/examples/0 is 0; wanted"),
        (_set("ladder", "cross_entropy", 0, to=-1), "ladder/cross_entropy/0 is -1; wanted"),
        (_set("ladder", to=[7]), "ladder is [7]"),
        (_set("model", to={"family": "toy"}), "model is"),
        (_set("pickle", to="gASV"), "additionalProperties"),
        (_set("follows", to="0" * 64 + "\n"), "follows"),
        (_drop_last("ladder"), "'toy-1', lacks segments ['block02']"),
    ],
)
def test_inconsistent_manifests_are_refused_by_name(manifest, change, message):
    with pytest.raises(ManifestError) as error:
        Manifest.from_bytes(changed(manifest, change), source="m.json")
    assert message in str(error.value)
    assert "m.json" in str(error.value)


def test_two_sizes_of_one_digest_are_refused(manifest):
    def change(document):
        digests = base64.b64decode(document["segments"]["sha256"])
        twice = digests[:64] + digests[32:64]
        document["segments"]["sha256"] = base64.b64encode(twice).decode()

    with pytest.raises(ManifestError, match="two segments have sha256="):
        Manifest.from_bytes(changed(manifest, change))


@pytest.fixture
def chained():
    """A base and two blocks in 4 bits, each with what makes 8 of them."""
    return make_chained(
        [100, 50, 60],
        [70, 40, 45],
        [0.9, 0.5, 0.3, 0.28, 0.27, 0.25],
        others=[(["base", "block01", "base.8", "block01.8"], 1, 0.4)],
    )


def test_refinements_are_named_after_their_unit_and_bits(chained):
    assert [s.name for s in chained.segments] == [
        *("base", "block01", "block02", "base.8", "block01.8", "block02.8")
    ]
    assert [s.refines for s in chained.segments] == [None] * 3 + ["base", "block01", "block02"]
    assert {s.unit for s in chained.segments} == {"base", "block01", "block02"}
    assert Manifest.from_bytes(chained.to_bytes()) == chained
    assert len(json.loads(chained.to_bytes())["layouts"]) == 1


def test_a_configuration_off_the_path_is_a_set(chained):
    other = chained.configurations["other-0"]
    assert other.segments == ("base", "block01", "base.8", "block01.8")
    assert chained.finest(other) == ("base.8", "block01.8")
    assert chained.bits(other) == (8, 8)
    assert chained.bits(chained.configurations["path-4"]) == (4, 8)
    row = chained.rows["other-0"]
    assert (row.size_bytes, row.depth, row.bits, row.macs) == (260, 1, 8.0, 2000)
    assert chained.rows["path-4"].bits == pytest.approx((8 + 8 + 4) / 3)
    # Three units of 16 numbers in float32, two of which are needed.
    assert chained.memory_bytes(other) == 2 * 64
    assert chained.memory_bytes(chained.ladder[-1]) == 3 * 64
    held = {chained.by_name[name].sha256 for name in other.segments}
    assert [c.name for c in chained.complete(held)] == ["other-0", "path-1", "path-0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("segments", "bits", 3, to=4), "'base.4' leads from 4 to 4 bits; wanted more"),
        (_set("segments", "bits", 3, to=None), "'base.None' leads from 4 to None bits"),
        (_set("units", "name", 2, to="block01.8"), "two entries named 'block01.8'"),
        (_set("ladder", "segments", 4, to=[0, 2, 3, 4]), "has 'block01.8' without 'block01'"),
        (_set("layouts", 0, to=[["kernel", [2**26]]]), "are said to unpack to 805306368; wanted"),
        (_set("layouts", 0, to=[["kernel", [2**51]]]), "are more than"),
        (
            _set("segments", "unit", to=[0, 1, 2, 0, 2, 1]),
            "'other-0' has 'block02.8' without 'block02'",
        ),
    ],
)
def test_refinements_that_do_not_fit_are_refused(chained, change, message):
    with pytest.raises(ManifestError) as error:
        Manifest.from_bytes(changed(chained, change))
    assert message in str(error.value)


def test_pairs_of_configurations_and_segments_are_bounded(manifest):
    def change(document):
        for group, count in (("segments", 1025), ("ladder", 1024)):
            for name, column in document[group].items():
                if isinstance(column, list):
                    document[group][name] = column[:1] * count

    with pytest.raises(ManifestError, match="1049600 pairs of a configuration and a segment"):
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
        _set("segments", "unit", to=[0] * 300_000),
        _set("segments", "bits", to=[None] * 4000 + ["x"]),
        _set("ladder", "segments", 0, to=[0] * 300_000),
        _set("depths", "skip_mask", to=["0"] * 300_000),
        _set("layouts", to=[[]] * 100_000),
        _set("layouts", 0, to=[["kernel", [1] * 300_000]]),
        _set("ladder", to=[[]] * 100_000),
        _set("model", "input", to={"shape": [1] * 300_000}),
        _set("model", "classes", to=[""] * 300_000),
        _set("model", "collections", to={"x": [""] * 300_000}),
        _set("ladder", "errors", to=[{}] * 100_000),
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
    assert seen < 10_000


def test_digests():
    assert is_digest(digest(b"x"))
    assert not is_digest(digest(b"x").upper())
    assert not is_digest(digest(b"x") + "\n")
    assert not is_digest("../" + digest(b"x")[3:])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["base", "block01", "0", "11", "AAAA", 0, 1, 2, 3, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_whatever_is_in_it_it_is_read_or_refused(data):
    manifest = make_chained(
        [100, 50, 60],
        [70, 40],
        [0.9, 0.5, 0.3, 0.28, 0.27],
        others=[(["base", "block01", "base.8", "block01.8"], 1, 0.4)],
    )
    document = json.loads(manifest.to_bytes())
    for _ in range(data.draw(st.integers(1, 2))):
        node = document
        while True:
            keys = range(len(node)) if isinstance(node, list) else sorted(node)
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], (list, dict)) and node[key] and data.draw(st.booleans()):
                node = node[key]
                continue
            node[key] = data.draw(values)
            break
    content = {k: v for k, v in document.items() if k != "model_id"}
    document["model_id"] = digest(canonical_json(content))
    try:
        read = Manifest.from_bytes(json.dumps(document).encode())
    except ManifestError:
        return
    assert read.to_bytes() == canonical_json(document)
    assert Manifest.from_bytes(read.to_bytes()) == read
    assert read.sets.complete({segment.sha256 for segment in read.segments})
