"""Trust files and release files: what is written is read back, and all else is refused in words."""

import base64
import dataclasses
import datetime
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust.documents import (
    MAX_RELEASE_BYTES,
    MAX_ROOTS,
    ReleaseFile,
    TrustFile,
)
from accordion_jax.delivery.trust.envelope import MAX_SIGNATURES, Signature
from accordion_jax.delivery.trust.statements import (
    MAX_KEYS,
    MAX_VERSION,
    Release,
    Root,
    SignedRelease,
    SignedRoot,
    is_moment,
    is_over,
    moment_of,
    text_of,
)
from tests.delivery.signing import Line, make_keys

ID = "0" * 64
MOMENTS = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31)).map(
    lambda moment: text_of(moment.replace(tzinfo=datetime.UTC))
)
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
VERSIONS = st.integers(1, MAX_VERSION)
RELEASES = st.builds(
    Release,
    NAMES,
    VERSIONS,
    st.from_regex(r"\A[0-9a-f]{64}\Z"),
    st.none() | MOMENTS,
)
ROOTS = st.builds(
    Root,
    NAMES,
    VERSIONS,
    st.lists(st.from_regex(r"\A[0-9a-f]{64}\Z"), min_size=1, max_size=4, unique=True).map(tuple),
    st.just(1),
    st.none() | VERSIONS,
    st.none() | MOMENTS,
    st.booleans(),
)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    line = Line.start(folder)
    line.rotate(make_keys(folder, 2), threshold=2, floor=3)
    return line


@pytest.fixture(scope="module")
def release(line):
    signed = Release("toy", 7, ID, None)
    return ReleaseFile(SignedRelease(signed, signed.to_envelope().signed_by(line.keys)), line.trust)


@hypothesis.given(RELEASES, ROOTS)
def test_statements_are_read_as_they_were_written(release, root):
    read = SignedRelease.from_dict(release.to_envelope().to_dict(), "it")
    assert (read.release, read.envelope) == (release, release.to_envelope())
    read = SignedRoot.from_dict(root.to_envelope().to_dict(), "it")
    assert (read.root, read.envelope) == (root, root.to_envelope())


def test_files_are_read_as_they_were_written(line, release):
    assert TrustFile.from_bytes(line.trust.to_bytes()) == line.trust
    assert ReleaseFile.from_bytes(release.to_bytes()) == release
    line.trust.verify("it")


@hypothesis.given(data=st.data())
def test_a_damaged_file_is_refused_or_not_signed(line, release, data):
    """Whatever a byte becomes: an error in words, or a document whose signatures tell."""
    content = release.to_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255))
    damaged = content[:place] + bytes([other]) + content[place + 1 :]
    try:
        read = ReleaseFile.from_bytes(damaged)
        read.trust.verify("it")
    except TrustError:
        return
    signers = read.signed.envelope.signers(line.trust.latest.keys)
    if len(signers) >= line.trust.latest.threshold:
        assert read.signed.release == release.signed.release
        assert [each.root for each in read.trust.roots] == [each.root for each in line.trust.roots]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@hypothesis.given(JSON, st.sampled_from(["format", "format_version", "release", "roots"]))
def test_any_json_in_any_place_is_refused_in_words(release, value, name):
    document = json.loads(release.to_bytes())
    hypothesis.assume(document[name] != value)
    for wrong in (document | {name: value}, document | {"other": value}, value):
        with pytest.raises(TrustError):
            ReleaseFile.from_bytes(json.dumps(wrong).encode())
        with pytest.raises(TrustError):
            TrustFile.from_bytes(json.dumps(wrong).encode())


def repacked(envelope, **changes):
    payload = json.loads(base64.b64decode(envelope["payload"])) | changes
    payload = {name: value for name, value in payload.items() if value is not ...}
    return envelope | {"payload": base64.b64encode(json.dumps(payload).encode()).decode()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"line": ""}, "line=''; wanted a name of at most 100"),
        ({"line": "a/b"}, "line='a/b'"),
        ({"line": "a\n"}, "line='a\\n'"),
        ({"line": "x" * 101}, "wanted a name of at most 100"),
        ({"line": 5}, "line=5"),
        ({"version": 0}, "version=0; wanted a whole number from 1 to 2^53 - 1"),
        ({"version": 2**53}, "wanted a whole number"),
        ({"version": True}, "version=True"),
        ({"version": "1"}, "version='1'"),
        ({"version": 1.0}, "1.0' is no whole number"),
        ({"model_id": "0" * 63}, "model_id="),
        ({"model_id": "0" * 64 + "\n"}, "model_id="),
        ({"model_id": None}, "model_id=None"),
        ({"expires": "2026-02-30T00:00:00Z"}, "wanted null, or a moment in UTC"),
        ({"expires": "2026-01-01T00:00:00+01:00"}, "wanted null, or a moment"),
        ({"expires": "2026-01-01T00:00:00Z\n"}, "wanted null, or a moment"),
        ({"expires": 0}, "expires=0"),
        ({"expires": ...}, "has no 'expires'"),
        ({"weights": 1}, "has 'weights'; wanted only line, version, model_id, expires"),
    ],
)
def test_what_a_release_may_not_say(release, change, said):
    with pytest.raises(TrustError) as raised:
        SignedRelease.from_dict(repacked(release.signed.envelope.to_dict(), **change), "it")
    assert said in str(raised.value)
    assert "it " in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": []}, "keys=[]; wanted 1 to 16 public keys"),
        ({"keys": ["a" * 64] * 2}, "each once"),
        ({"keys": ["A" * 64]}, "in lower case"),
        ({"keys": [f"{n:064x}" for n in range(MAX_KEYS + 1)]}, "wanted 1 to 16"),
        ({"keys": "a" * 64}, "wanted 1 to 16"),
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": 3}, "threshold=3 and 2 keys; wanted at most as many"),
        ({"floor": 0}, "floor=0; wanted null"),
        ({"require_expiry": 1}, "require_expiry=1; wanted true or false"),
        ({"version": -1}, "version=-1"),
        ({"expires": "soon"}, "expires='soon'"),
        ({"line": ...}, "has no 'line'"),
    ],
)
def test_what_a_root_may_not_say(line, change, said):
    with pytest.raises(TrustError) as raised:
        SignedRoot.from_dict(repacked(line.trust.roots[-1].envelope.to_dict(), **change), "it")
    assert said in str(raised.value)


def test_a_chain_is_of_one_line_and_has_no_gap(line):
    first, second = line.trust.roots
    other = SignedRoot(
        dataclasses.replace(second.root, line="other"),
        dataclasses.replace(second.root, line="other").to_envelope(),
    )
    later = dataclasses.replace(second.root, version=3)
    gap = SignedRoot(later, later.to_envelope())
    for roots, said in (
        ((first, other), "has roots of the lines 'toy' and 'other'; wanted one line"),
        ((first, gap), "has root 1 and then 3; wanted each to follow"),
        ((second, first), "has root 2 and then 1"),
        ((first, first), "has root 1 and then 1"),
    ):
        with pytest.raises(TrustError) as raised:
            TrustFile.from_bytes(TrustFile(roots).to_bytes())
        assert said in str(raised.value)
    for documents in ([], [first.envelope.to_dict()] * (MAX_ROOTS + 1)):
        content = json.dumps({"format": "accordion-trust", "format_version": 1, "roots": documents})
        with pytest.raises(TrustError, match="wanted a list of 1 to 64 roots"):
            TrustFile.from_bytes(content.encode())


def test_the_largest_file_that_may_be_fits(line):
    keys = tuple(f"{number:064x}" for number in range(MAX_KEYS))
    signatures = tuple(Signature("f" * 64, b"\xff" * 64) for _ in range(MAX_SIGNATURES))
    roots = []
    for version in range(MAX_VERSION - MAX_ROOTS + 1, MAX_VERSION + 1):
        root = Root("x" * 100, version, keys, MAX_KEYS, MAX_VERSION, text_of(_LAST), True)
        envelope = dataclasses.replace(root.to_envelope(), signatures=signatures)
        roots.append(SignedRoot(root, envelope))
    release = Release("x" * 100, MAX_VERSION, "f" * 64, text_of(_LAST))
    signed = dataclasses.replace(release.to_envelope(), signatures=signatures)
    document = ReleaseFile(SignedRelease(release, signed), TrustFile(tuple(roots)))
    content = document.to_bytes()
    assert len(content) <= MAX_RELEASE_BYTES
    assert ReleaseFile.from_bytes(content) == document
    with pytest.raises(TrustError, match="at most 524288 are read"):
        ReleaseFile.from_bytes(content + b" " * MAX_RELEASE_BYTES)


_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def test_moments():
    assert is_moment("2028-02-29T23:59:59Z")
    assert not is_moment("2027-02-29T00:00:00Z")
    moment = moment_of("2027-01-31T00:00:00Z")
    second = datetime.timedelta(seconds=1)
    assert not is_over(None, moment)
    assert not is_over("2027-01-31T00:00:00Z", moment - second)
    assert is_over("2027-01-31T00:00:00Z", moment)
    east = datetime.timezone(datetime.timedelta(hours=2))
    assert text_of(moment.astimezone(east)) == "2027-01-31T00:00:00Z"


def test_a_root_says_whose_signatures_it_lacks(line):
    first, second = line.trust.roots
    assert second.missing_signatures(first) == []
    half = dataclasses.replace(second, envelope=second.root.to_envelope().signed_by(line.keys[:1]))
    assert half.missing_signatures(first) == [
        "1 of its own keys signed it, wanted 2",
        "0 of the keys before signed it, wanted 1",
    ]
    with pytest.raises(TrustError, match=r"version 2 .* does not count: 1 of its own keys"):
        TrustFile((first, half)).verify("it")
    with pytest.raises(TrustError, match=r"version 1 .* does not count: 0 of its own keys"):
        TrustFile((SignedRoot(first.root, first.root.to_envelope()),)).verify("it")
