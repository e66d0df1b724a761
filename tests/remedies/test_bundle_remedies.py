"""What a bundle that cannot be read tells people to do helps."""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

from accordion_jax.delivery.bundle import document as document_lib
from accordion_jax.delivery.bundle.manifest import canonical_json, digest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path, verify_bundle
from accordion_jax.delivery.bundle.variables import load_segment
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import (
    BundleError,
    ManifestError,
)
from tests.delivery.toys import make_parts
from tests.remedies.refusals import refused


def removed(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.tries("write or copy the bundle again")
@pytest.mark.parametrize("damage", [removed, cut])
@pytest.mark.parametrize("how", ["written", "copied"])
def test_a_damaged_bundle_is_written_or_copied_again(tmp_path, damage, how):
    bundle = write_bundle(tmp_path / "bundles", **make_parts())
    shutil.copytree(bundle, tmp_path / "copy")
    damage(segment_path(bundle, read_manifest(bundle).segments[1].sha256))
    with refused(BundleError) as said:
        verify_bundle(bundle)
    assert said[0].endswith("write or copy the bundle again")
    if how == "written":
        assert write_bundle(tmp_path / "bundles", **make_parts()) == bundle
    else:
        shutil.copytree(tmp_path / "copy", bundle, dirs_exist_ok=True)
    assert verify_bundle(bundle).model_id == bundle.name


@pytest.mark.tries(
    "it was changed after it was written; fetch or write it again",
    "upgrade accordion_jax, or write the bundle again",
)
@pytest.mark.parametrize("change", ["content", "version"])
def test_a_manifest_that_was_changed_is_written_again(tmp_path, change):
    bundle = write_bundle(tmp_path, **make_parts())
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    if change == "content":
        document["provenance"] = {"run": "another"}
    else:
        document["format_version"] = 99
    path.write_text(json.dumps(document))
    with refused(ManifestError) as said:
        read_manifest(bundle)
    assert re.search("(fetch or write it|write the bundle) again$", said[0])
    write_bundle(tmp_path, **make_parts())
    assert verify_bundle(bundle).model_id == bundle.name


@pytest.mark.tries(
    "cannot be read as safetensors ({}); write the bundle again",
    "is named like a tree of tensors, or lies",
)
def test_a_segment_that_no_writer_of_ours_makes_is_written_again(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    manifest = read_manifest(bundle)
    with refused(BundleError) as said:
        load_segment(manifest, "base", b"no safetensors")
    assert said[0].endswith("write the bundle again")
    twice = {name: np.zeros(1, np.float32) for name in ("conv", "conv/kernel")}
    with refused(BundleError) as said:
        load_segment(manifest, "base", safetensors.numpy.save(twice))
    assert said[0].endswith("write the bundle again")
    write_bundle(tmp_path, **make_parts())
    content = segment_path(bundle, manifest.segments[0].sha256).read_bytes()
    assert load_segment(manifest, "base", content)


@pytest.mark.tries("write the bundle again from its run, with python -m accordion_jax.bundle")
def test_a_bundle_of_an_older_format(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    old = bundle.rename(tmp_path / "0123")
    document = json.loads((old / "manifest.json").read_bytes())
    (old / "manifest.json").write_text(json.dumps(document | {"format_version": 1}))
    with refused(ManifestError) as said:
        read_manifest(old)
    assert said[0].endswith("from its run, with python -m accordion_jax.bundle")
    # Which calls this.
    assert verify_bundle(write_bundle(tmp_path, **make_parts()))


@pytest.mark.tries("says a thing twice or in another form than the one that is written")
def test_a_manifest_in_another_form(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts())
    path = bundle / "manifest.json"
    document = json.loads(path.read_bytes())
    document["layouts"].append(document["layouts"][0] + 1)
    del document["model_id"]
    document["model_id"] = digest(canonical_json(document))
    path.write_text(json.dumps(document))
    other = bundle.rename(tmp_path / document["model_id"])
    with refused(ManifestError) as said:
        read_manifest(other)
    assert said[0].endswith("write the bundle again")
    assert verify_bundle(write_bundle(tmp_path, **make_parts()))


@pytest.mark.tries("has no arrays; leave it out, or give it some")
def test_a_segment_without_arrays(tmp_path):
    parts = make_parts(blocks=1)
    with refused(BundleError) as said:
        write_bundle(tmp_path, **parts | {"segments": parts["segments"] | {"block02": {}}})
    assert said[0].endswith("leave it out, or give it some")
    assert write_bundle(tmp_path, **parts)
    assert write_bundle(tmp_path, **make_parts(blocks=2))


@pytest.mark.tries("cut the model into fewer segments or configurations")
def test_a_model_of_fewer_segments(tmp_path, monkeypatch):
    bundle = write_bundle(tmp_path, **make_parts(blocks=5))
    data = (bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(document_lib, "MAX_VALUES", data.count(b","))
    with refused(ManifestError) as said:
        read_manifest(bundle)
    assert said[0].endswith("cut the model into fewer segments or configurations")
    assert read_manifest(write_bundle(tmp_path, **make_parts(blocks=3)))
