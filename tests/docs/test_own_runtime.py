"""docs/examples/runtime.py, run as a person would: a runtime of one's own."""

import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import ModelError
from tests.commands import ROOT, command_environment
from tests.docs.examples import load


def test_it_prints_at_each_configuration_the_error_that_the_table_expects():
    done = subprocess.run(
        [sys.executable, "docs/examples/runtime.py"],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(coml-\d): error (0\.\d{4}), expected (0\.\d{4})\n", done.stdout)
    assert [name for name, *_ in found] == ["coml-0", "coml-1", "coml-2", "coml-3"]
    assert all(error == expected for _, error, expected in found)
    errors = [float(error) for _, error, _ in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2


@pytest.fixture
def example(monkeypatch):
    """The module, whose entry is gone after the test."""
    monkeypatch.setattr(runtimes, "RUNTIMES", dict(runtimes.RUNTIMES))
    return load("runtime")


@pytest.fixture
def cut(tmp_path, example):
    """(weights, rows, bundle's folder, manifest) of random weights of five classes."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 5)).astype(np.float32)
    rows = rng.normal(size=(9, 64)).astype(np.float32)
    bundle = write_bundle(tmp_path, **example.cut(weights, rows, rng.integers(0, 5, 9)))
    return weights, rows, bundle, read_manifest(bundle)


def test_its_entry_is_all_that_the_package_needs(example, cut):
    weights, rows, bundle, manifest = cut
    linear = runtimes.make(manifest)
    assert type(linear) is example.Linear
    for configuration in manifest.ladder:
        segments = [
            linear.load(name, segment_path(bundle, manifest.by_name[name].sha256).read_bytes())
            for name in configuration.segments
        ]
        kept = 16 * len(segments)
        outputs = linear.compile(configuration, segments, len(rows))(rows)
        np.testing.assert_array_equal(outputs, rows[:, :kept] @ weights[:kept])


def test_weights_of_another_shape_are_refused(cut):
    linear = runtimes.make(cut[-1])
    content = safetensors.numpy.save({"weights": np.zeros((3, 5), np.float32)})
    with pytest.raises(ModelError, match="segment 'base' has no weights of 16 features"):
        linear.load("base", content)
