"""A device on which no JAX is installed, as a process in which it cannot be imported."""

import os
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from tests.commands import ROOT
from tests.delivery.endpoints import running_endpoint
from tests.delivery.forests import write_forest
from tests.delivery.resnets import make_images, write_resnet

# Python runs a module of this name at its start.
SITE = """
import sys

class NoJax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoJax())
"""

DEVICE = """
import sys
import numpy as np
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.runtimes.runtime import Runtime

url, folder = sys.argv[1:]
rows = np.load(folder + "/rows.npy")
transport = HttpTransport(url)
device = Device(transport, SegmentCache(folder + "/cache"))
manifest = device.connect()
runtime = Runtime(device, batch_sizes=(len(rows),))
outputs = {}
for configuration in manifest.ladder:
    device.upgrade(configuration.name)
    assert runtime.wait(60, configuration=configuration.name), runtime.problems
    outputs[configuration.name] = runtime.predict(rows).outputs
np.savez(folder + "/outputs.npz", **outputs)
runtime.close()
device.close()
transport.close()
"""


@pytest.fixture
def python(tmp_path):
    """Runs Python where importing JAX fails."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(site), str(ROOT)])

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": path} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "No module named 'jax'" in run("-c", "import jax").stderr
    return run


@pytest.mark.parametrize("model", ["forest", "boosting"])
def test_it_fetches_and_predicts_what_scikit_learn_does_at_every_configuration(
    python, tmp_path, model
):
    bundle, classifier, rows, _ = write_forest(tmp_path / "bundles", model)
    np.save(tmp_path / "rows.npy", rows)
    with running_endpoint(bundle.parent) as url:
        done = python("-c", DEVICE, url, tmp_path)
    assert done.returncode == 0, done.stderr
    ladder = read_manifest(bundle).ladder
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert list(outputs) == [configuration.name for configuration in ladder]
        for trees, name in zip((2, 4, 6, 7), outputs, strict=True):
            if model == "boosting":
                expected = [*classifier.staged_decision_function(rows)][trees - 1]
            else:
                trees_of_it = classifier.estimators_[:trees]
                expected = sum(tree.predict_proba(rows) for tree in trees_of_it) / trees
            np.testing.assert_array_equal(outputs[name], expected)


@pytest.mark.parametrize("model", ["forest", "boosting"])
def test_so_does_the_command(python, tmp_path, model):
    bundle, classifier, rows, labels = write_forest(tmp_path / "bundles", model)
    np.savez(tmp_path / "x.npz", features=rows, labels=labels)
    with running_endpoint(bundle.parent) as url:
        done = python(
            "-m",
            "accordion_jax.fetch",
            url,
            f"--cache={tmp_path / 'cache'}",
            "--upgrade",
            f"--predict={tmp_path / 'x.npz'}",
            # A terminal that knows no more than western letters.
            PYTHONIOENCODING="latin-1",
        )
    assert done.returncode == 0, done.stderr
    answers = classifier.predict(rows)
    assert f"predictions  597 by groups-4: {' '.join(map(str, answers[:10]))} ..." in done.stdout
    assert f"error {np.mean(answers != labels):.4f} on these 597 rows" in done.stdout


def test_a_network_is_refused_with_the_extra_that_runs_it_and_fetched_without(python, tmp_path):
    bundle, *_ = write_resnet(tmp_path / "bundles")
    np.savez(tmp_path / "x.npz", images=make_images(3))
    fetch = ["-m", "accordion_jax.fetch"]
    cache = f"--cache={tmp_path / 'cache'}"
    with running_endpoint(bundle.parent) as url:
        refused = python(*fetch, url, cache, f"--predict={tmp_path / 'x.npz'}")
        fetched = python(*fetch, url, cache, "--upgrade")
    assert refused.returncode == 1
    assert "pip install 'accordion_jax[device-jax]'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert fetched.returncode == 0, fetched.stderr
    assert "in use       coml-3" in fetched.stdout
