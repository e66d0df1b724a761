import os
import stat

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from accordion_jax.delivery.bundle.manifest import digest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path, verify_bundle
from accordion_jax.delivery.bundle.variables import read_model
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import BundleError, ManifestError
from tests.delivery.toys import make_parts


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_holds_exactly_the_arrays(tmp_path):
    parts = make_parts()
    bundle = write_bundle(tmp_path, **parts)
    manifest = verify_bundle(bundle)
    assert bundle == tmp_path / manifest.model_id
    assert [segment.name for segment in manifest.segments] == list(parts["segments"])
    for segment in manifest.segments:
        arrays = safetensors.numpy.load_file(segment_path(bundle, segment.sha256))
        wanted = parts["segments"][segment.name]
        assert arrays.keys() == wanted.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, wanted[name], strict=True)
        assert segment.tensor_bytes == sum(array.nbytes for array in arrays.values())


def test_a_model_is_read_whole_and_checked_and_another_folder_is_none(tmp_path):
    assert read_model(tmp_path) is None
    assert read_model(tmp_path / "nowhere") is None
    parts = make_parts()
    bundle = write_bundle(tmp_path, **parts)
    found = read_model(bundle)
    description, variables = found.description, found.variables
    assert description == read_manifest(bundle).model
    for unit, arrays in parts["segments"].items():
        for name, array in arrays.items():
            collection = "params" if name.startswith("conv") else "batch_stats"
            tree = variables[collection]
            *parents, last = name.split("/") if unit == "base" else [unit, *name.split("/")]
            for parent in parents:
                tree = tree[parent]
            np.testing.assert_array_equal(tree[last], array)
    segment_path(bundle, read_manifest(bundle).segments[-1].sha256).write_bytes(b"")
    with pytest.raises(BundleError, match="write or copy the bundle again"):
        read_model(bundle)


def test_same_input_gives_same_bytes_whatever_the_memory_order(tmp_path):
    parts = make_parts()
    first = write_bundle(tmp_path / "a", **parts)
    fortran = {
        name: {key: np.asfortranarray(array) for key, array in reversed(arrays.items())}
        for name, arrays in parts["segments"].items()
    }
    second = write_bundle(tmp_path / "b", **(parts | {"segments": fortran}))
    assert first.name == second.name
    assert files_of(first) == files_of(second)


def test_an_existing_bundle_is_left_untouched(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    marker = segment_path(bundle, read_manifest(bundle).segments[0].sha256)
    os.utime(marker, (1, 1))
    assert write_bundle(tmp_path, **make_parts()) == bundle
    assert marker.stat().st_mtime == 1
    assert [path.name for path in tmp_path.iterdir()] == [bundle.name]


def test_a_new_version_shares_equal_segments_and_says_what_it_follows(tmp_path):
    old = write_bundle(tmp_path, **make_parts())
    parts = make_parts()
    parts["segments"]["block03"] = make_parts(seed=1)["segments"]["block03"]
    new = verify_bundle(write_bundle(tmp_path, **parts, follows=old.name))
    assert new.follows == old.name
    shared = set(new.by_sha256) & set(read_manifest(old).by_sha256)
    assert shared == {segment.sha256 for segment in new.segments[:3]}


def test_equal_segments_are_one_file(tmp_path):
    parts = make_parts()
    parts["segments"]["block02"] = parts["segments"]["block01"]
    bundle = write_bundle(tmp_path, **parts)
    assert len(list((bundle / "segments").iterdir())) == 3
    assert len(verify_bundle(bundle).segments) == 4


def test_a_crash_leaves_no_half_bundle(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_bundle(tmp_path, **make_parts())
    assert list(tmp_path.iterdir()) == []
    verify_bundle(write_bundle(tmp_path, **make_parts()))


def test_a_web_server_of_another_user_may_read_it(tmp_path):
    mask = os.umask(0o022)
    try:
        bundle = write_bundle(tmp_path, **make_parts())
    finally:
        os.umask(mask)
    for path in (bundle, bundle / "segments"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE((bundle / "manifest.json").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (object, {"a": 1}),
        (complex, 1j),
        (str, "text"),
        ("datetime64[s]", "2020-01-01"),
    ],
)
def test_only_numbers_are_stored(tmp_path, dtype, value):
    parts = make_parts()
    parts["segments"]["block01"] = {"x": np.array([value], dtype)}
    with pytest.raises(BundleError, match="array 'x' of segment 'block01' has dtype"):
        write_bundle(tmp_path, **parts)
    assert list(tmp_path.iterdir()) == []


def test_other_numbers_survive(tmp_path):
    import ml_dtypes

    parts = make_parts()
    wanted = {
        "half": np.arange(3, dtype=ml_dtypes.bfloat16),
        "whole": np.arange(4, dtype=np.int8),
        "scalar": np.float32(2.5),
    }
    parts["segments"]["block01"] = wanted
    bundle = write_bundle(tmp_path, **parts)
    segment = verify_bundle(bundle).by_name["block01"]
    arrays = safetensors.numpy.load_file(segment_path(bundle, segment.sha256))
    assert segment.tensor_bytes == 6 + 4 + 4
    assert {k: (v.dtype, v.shape) for k, v in arrays.items()} == {
        k: (v.dtype, np.shape(v)) for k, v in wanted.items()
    }


def test_bad_parts_are_refused(tmp_path):
    with pytest.raises(BundleError, match="'block01' has no arrays"):
        write_bundle(tmp_path, **_with_segment({}))
    with pytest.raises(ManifestError, match="follows"):
        write_bundle(tmp_path, **make_parts(), follows="version-1")
    assert list(tmp_path.iterdir()) == []


def _with_segment(arrays):
    parts = make_parts()
    parts["segments"]["block01"] = arrays
    return parts


def test_verify_names_what_is_damaged(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    segment = read_manifest(bundle).by_name["block02"]
    path = segment_path(bundle, segment.sha256)
    data = path.read_bytes()

    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=f"'block02'.*size_bytes={len(data) - 1}"):
        verify_bundle(bundle)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"'block02'.*sha256="):
        verify_bundle(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"'block02'.*is missing"):
        verify_bundle(bundle)


def test_a_manifest_must_be_of_the_folder_it_is_in(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    moved = bundle.rename(tmp_path / digest(b"another"))
    with pytest.raises(ManifestError, match="wanted " + moved.name):
        read_manifest(moved)
    with pytest.raises(FileNotFoundError, match="no bundle at"):
        read_manifest(tmp_path)


def test_segment_paths_cannot_leave_the_bundle(tmp_path):
    with pytest.raises(ValueError, match="64 hexadecimal"):
        segment_path(tmp_path, "../../" + "a" * 58)
