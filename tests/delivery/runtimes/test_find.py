"""How a manifest's runtime is found, and what is said where it cannot be."""

import dataclasses
import subprocess
import sys

import pytest

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.errors import ModelError
from accordion_jax.delivery.runtimes.trees import Trees
from tests.commands import ROOT
from tests.delivery.toys import make_manifest


@pytest.fixture
def manifest():
    return make_manifest([100], [0.5])


def asking_for(manifest, name):
    return dataclasses.replace(manifest, model=manifest.model | {"runtime": name})


def test_a_manifest_that_names_no_runtime_is_a_networks(manifest):
    assert "runtime" not in manifest.model
    assert runtimes.find(manifest) is runtimes.find(asking_for(manifest, "networks"))
    assert runtimes.find(asking_for(manifest, "trees")) is Trees


@pytest.mark.parametrize(
    "name", ["pixie-dust", "os", "accordion_jax.main", ["trees"], None, "é\x1b"]
)
def test_an_unknown_runtime_is_named_beside_those_there_are(manifest, name):
    known = ", ".join(sorted(runtimes.RUNTIMES))
    with pytest.raises(ModelError, match=f"not known here; known: {known}") as error:
        runtimes.find(asking_for(manifest, name))
    assert ascii(name) in str(error.value)
    assert str(error.value).isascii()


def test_a_missing_package_is_named_with_the_extra_that_brings_it(manifest, monkeypatch):
    entry = runtimes.Entry("package_that_is_not_there.module.Class", "device-jax")
    monkeypatch.setitem(runtimes.RUNTIMES, "far", entry)
    with pytest.raises(
        ModelError, match=r"'far' .*No module named 'package_that_is_not_there'"
    ) as e:
        runtimes.find(asking_for(manifest, "far"))
    assert "pip install 'accordion_jax[device-jax]'" in str(e.value)


def test_a_module_of_ours_that_is_missing_is_no_matter_of_packages(manifest, monkeypatch):
    entry = runtimes.Entry("accordion_jax.delivery.runtimes.not_there.Class", "device")
    monkeypatch.setitem(runtimes.RUNTIMES, "gone", entry)
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        runtimes.find(asking_for(manifest, "gone"))


def test_each_entry_names_a_class_that_follows_the_contract(manifest):
    for name in runtimes.RUNTIMES:
        cls = runtimes.find(asking_for(manifest, name))
        assert {"kinds", "load", "compile"} <= set(dir(cls)), name


def test_fetching_loads_no_runtime():
    program = (
        "import sys, accordion_jax.fetch\n"
        "from accordion_jax.delivery.runtimes import RUNTIMES\n"
        "modules = {entry.path.rpartition('.')[0] for entry in RUNTIMES.values()}\n"
        "sys.exit(sorted(modules & sys.modules.keys()) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_bundle_of_a_network_says_so(tmp_path):
    from tests.delivery.resnets import write_resnet

    assert read_manifest(write_resnet(tmp_path)[0]).model["runtime"] == "networks"
