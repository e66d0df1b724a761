"""The fetch command as a person runs it, against the real endpoint."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from tests.delivery.endpoints import running_endpoint
from tests.delivery.resnets import make_images, write_resnet


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL of an endpoint, manifest of its one model)."""
    bundle, _, _ = write_resnet(tmp_path_factory.mktemp("bundles"))
    with running_endpoint(bundle.parent) as url:
        yield url, read_manifest(bundle)


@pytest.fixture
def fetch(tmp_path, served):
    def run(*flags, url=served[0], code=0):
        command = [sys.executable, "-m", "accordion_jax.fetch", url, f"--cache={tmp_path / 'c'}"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr + done.stdout
        return done

    return run


def test_fetch_upgrade_and_step_down(served, fetch):
    _, manifest = served
    sizes = [segment.size_bytes for segment in manifest.segments]
    first = fetch("--mbps=0.5", "--deadline_ms=1200")
    # 5 kB and 20 kB in 0.4 s; the third, of 75 kB, would be late.
    assert "in use       coml-1: 1 of 3 blocks" in first.stdout
    assert f"transferred  {sum(sizes[:2]):,} bytes of segments in 0." in first.stdout
    assert "in use coml-0, depth 0, expected error 0.9" in first.stderr
    upgraded = fetch("--upgrade")
    assert "in use       coml-3: 3 of 3 blocks, 100 % of the bytes" in upgraded.stdout
    assert f"transferred  {sum(sizes[2:]):,} bytes" in upgraded.stdout
    assert f"cached       {sum(sizes[:2]):,} bytes before; 0 bytes" in upgraded.stdout
    # No network from here on.
    down = fetch("--step_down=2", url=served[0])
    assert "in use       coml-2: 2 of 3 blocks" in down.stdout
    assert "transferred  0 bytes of segments; 0 of manifest and plans" in down.stdout


def test_predictions_while_it_arrives(served, fetch, tmp_path):
    np.savez(tmp_path / "x.npz", images=make_images(30), labels=np.zeros(30, np.int64))
    done = fetch(f"--predict={tmp_path / 'x.npz'}", "--max_error=0.6")
    assert "first        prediction" in done.stdout
    assert "predictions  30 by coml-2" in done.stdout
    assert "measured     error" in done.stdout
    np.save(tmp_path / "x.npy", make_images(3))
    done = fetch(f"--predict={tmp_path / 'x.npy'}", "--step_down=0")
    assert "predictions  3 by coml-0" in done.stdout


def test_what_a_person_may_get_wrong(served, fetch, tmp_path):
    assert "give one URL" in fetch("extra", code=1).stderr
    both = fetch("--upgrade", "--step_down=1", code=1)
    assert "give --upgrade or --step_down, not both" in both.stdout + both.stderr
    nothing = fetch("--step_down=1", url="http://127.0.0.1:9", code=1)
    assert "fetch: no manifest from http://127.0.0.1:9 is kept" in nothing.stderr
    assert (
        "fetch: url='example.org' must start with http" in fetch(url="example.org", code=1).stderr
    )
    missing = fetch(f"--trace={tmp_path / 'none.csv'}", code=1)
    assert "No such file" in missing.stderr
    assert "give --mbps or --trace" in fetch("--mbps=1", "--trace=x", code=1).stderr
    limited = fetch("--cache_limit_mb=0.01", code=1)
    assert "cache's limit is 10000" in limited.stderr
    assert pathlib.Path(tmp_path / "c").is_dir()
    late = fetch("--mbps=0.1", "--deadline_ms=50", code=1)
    assert "nothing: not even the base is complete yet" in late.stdout
    assert "unmet        deadline_s" in late.stdout
