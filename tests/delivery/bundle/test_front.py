"""The front: any cut, any change and any order is found; what is right comes back as it was."""

import contextlib
import functools
import shutil
import struct
import tempfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accordion_jax.delivery.bundle import front as fronts
from accordion_jax.delivery.bundle.front import Head, check_front, front_bytes, pack, read_head
from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, digest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path, verify_bundle
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import BundleError, ManifestError
from tests.delivery.toys import make_manifest, make_parts

MANIFEST = make_manifest([1000, 2000, 3000, 500], [0.6, 0.4, 0.3, 0.2])
ID = "ab" * 32


class EndedError(Exception):
    """The reader wanted more than there was."""


class Source:
    """Bytes that are taken one after another."""

    def __init__(self, data):
        self.data, self.taken = data, 0

    def __call__(self, count):
        found = self.data[self.taken : self.taken + count]
        if len(found) < count:
            raise EndedError
        self.taken += count
        return found


heads = st.builds(
    Head,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.lists(st.integers(0, 65535), unique=True, max_size=80).map(tuple),
    st.integers(0, 2**53),
)


@given(heads, st.binary(max_size=100))
def test_a_head_comes_back_and_nothing_behind_it_is_read(head, rest):
    data = head.to_bytes()
    source = Source(data + rest)
    assert read_head(source, "it") == head
    assert source.taken == len(data)
    assert head.to_bytes() == data
    if head.manifest is not None:
        assert head.to_bytes(pack(head.manifest)) == data


@given(heads, st.data())
def test_cut_anywhere_it_ends_early(head, data):
    whole = head.to_bytes()
    with pytest.raises(EndedError):
        read_head(Source(whole[: data.draw(st.integers(0, len(whole) - 1))]), "it")


@given(heads, st.data())
def test_a_changed_byte_is_another_head_or_is_found(head, data):
    whole = head.to_bytes()
    place, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(whole)
    changed[place] ^= change
    try:
        found = read_head(Source(bytes(changed)), "it")
    except (ManifestError, EndedError):
        return
    assert found != head
    # What is packed carries a checksum of its own.
    start = 58 + 2 * len(head.places)
    assert place < start


@given(st.binary(max_size=400))
def test_any_bytes_are_a_head_or_are_refused(data):
    for start in (b"", b"accfrnt\x01"):
        with contextlib.suppress(ManifestError, EndedError):
            read_head(Source(start + data), "it")


def fixed(manifest=0, release=0, offset=0, count=0, magic=b"accfrnt", version=1):
    return struct.pack(
        ">7sB32sIIQH", magic, version, bytes.fromhex(ID), manifest, release, offset, count
    )


BOMB = zlib.compress(bytes(MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (fixed(magic=b"<!docty"), "is no front: it begins with b'<!docty'"),
        (fixed(version=2), "is a front of version 2; wanted 1"),
        (fixed(manifest=2**32 - 1), "a manifest of 4294967295 bytes; at most 16777216 are read"),
        (fixed(release=(1 << 19) + 1), "a release of 524289 bytes; at most 524288 are read"),
        (fixed(count=2) + bytes(4), "has a segment twice"),
        (fixed(manifest=3) + b"abc", "the manifest in it is damaged"),
        (fixed(manifest=len(BOMB)) + BOMB, "the manifest in it has more than 16777216 bytes"),
        (fixed(release=len(BOMB)) + BOMB, "the release in it has more than 524288 bytes"),
        (fixed(manifest=10) + pack(b"") + b"xx", "does not end where it is said to"),
        (fixed(manifest=5) + pack(b"a" * 99)[:5], "does not end where it is said to"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_head_is_refused_in_words(data, said):
    source = Source(data + bytes(100))
    with pytest.raises(ManifestError, match=said):
        read_head(source, "it")
    assert source.taken <= len(data), "nothing that is announced too large is read"


def test_a_head_names_segments_of_its_own_manifest():
    head = Head.of(MANIFEST, [MANIFEST.segments[2], MANIFEST.segments[0]], offset=7)
    assert head.segments_of(MANIFEST, "it") == (MANIFEST.segments[2], MANIFEST.segments[0])
    assert Head.of(MANIFEST, []).manifest is None
    for wrong, said in (
        (Head(ID, None, None), f"of model {ID}, and comes with the manifest of"),
        (Head(MANIFEST.model_id, None, None, (4,)), "place 4; model .* has 4"),
        (Head(MANIFEST.model_id, None, None, (3,), 501), "leaves out 501 bytes .* it has 500"),
        (Head(MANIFEST.model_id, None, None, (), 1), "leaves out 1 bytes .* it has 0"),
    ):
        with pytest.raises(ManifestError, match=said):
            wrong.segments_of(MANIFEST, "it")


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundles", **make_parts(blocks=2))


def test_a_bundle_has_a_front_with_manifest_and_base(bundle):
    manifest = read_manifest(bundle)
    data = (bundle / "front").read_bytes()
    source = Source(data)
    head = read_head(source, "it")
    assert head.manifest == (bundle / "manifest.json").read_bytes()
    assert (head.release, head.offset) == (None, 0)
    [base] = head.segments_of(manifest, "it")
    assert digest(source(base.size_bytes)) == manifest.segments[0].sha256
    assert source.taken == len(data)


def test_writing_the_bundle_again_mends_its_front(bundle):
    before = (bundle / "front").read_bytes()
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"x")):
        damage(bundle / "front")
        write_bundle(bundle.parent, **make_parts(blocks=2))
        assert (bundle / "front").read_bytes() == before


@pytest.mark.tries("is not the front of its bundle (")
def test_a_front_of_something_else_is_no_sound_bundle(bundle, tmp_path):
    verify_bundle(bundle)
    copy = shutil.copytree(bundle, tmp_path / "copy" / bundle.name)
    other = write_bundle(tmp_path / "bundles", **make_parts(blocks=3))
    base = segment_path(bundle, read_manifest(bundle).segments[0].sha256).read_bytes()
    right = (bundle / "front").read_bytes()
    manifest = read_manifest(bundle)
    for wrong, said in (
        ((other / "front").read_bytes(), "says that it is of model"),
        (right[:-1], "ends after"),
        (right + b"x", "goes on after"),
        (right[: -len(base)] + bytes(len(base)), "segment 'base' is damaged"),
        (Head.of(manifest, []).to_bytes(), "its manifest is another"),
        (
            Head.of(manifest, [], document=manifest.to_bytes()).to_bytes(),
            "other segments than the smallest",
        ),
        (b"", "ends after 0 bytes"),
    ):
        (bundle / "front").write_bytes(wrong)
        with pytest.raises(BundleError, match=said) as error:
            verify_bundle(bundle)
        assert "write or copy the bundle again" in str(error.value)
    # It says what helps: each of the two.
    write_bundle(bundle.parent, **make_parts(blocks=2))
    verify_bundle(bundle)
    (bundle / "front").write_bytes(b"")
    shutil.copytree(copy, bundle, dirs_exist_ok=True)
    verify_bundle(bundle)
    # Without one a device asks for more than one thing.
    (bundle / "front").unlink()
    verify_bundle(bundle)


@functools.cache
def toy():
    """(manifest, its front) of a bundle of three segments."""
    with tempfile.TemporaryDirectory() as folder:
        made = write_bundle(folder, **make_parts(blocks=2, width=4))
        return read_manifest(made), (made / "front").read_bytes()


@given(st.data())
@settings(max_examples=300)
def test_any_change_of_a_front_is_found(data):
    manifest, right = toy()
    kind = data.draw(st.sampled_from(["cut", "flip", "swap", "repeat"]))
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(right))] * 2)))
    changed = {
        "cut": right[:first] + right[last:],
        "flip": right[:first] + bytes(each ^ 0xFF for each in right[first:last]) + right[last:],
        "swap": right[last:] + right[first:last] + right[:first],
        "repeat": right[:last] + right[first:last] + right[last:],
    }[kind]
    if changed == right:
        check_front(changed, manifest, "it")
        return
    with pytest.raises(BundleError):
        check_front(changed, manifest, "it")


def test_segments_of_equal_content_are_sent_once():
    equal = make_parts(blocks=2)
    equal["segments"]["block01"] = equal["segments"]["base"]
    equal["ladder"] = equal["ladder"][1:]
    equal["table"] = type(equal["table"])(equal["table"].rows[1:], equal["table"].provenance)
    with tempfile.TemporaryDirectory() as folder:
        made = write_bundle(folder, **equal)
        manifest = verify_bundle(made)
        contents = {s.sha256: segment_path(made, s.sha256).read_bytes() for s in manifest.segments}
        assert len(fronts.smallest_of(manifest)) == 1
        assert front_bytes(manifest, contents.__getitem__) == (made / "front").read_bytes()
