"""A run with own statistics as a user makes it: killed in between, and cut into a bundle."""

import json
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.reading import segment_path, verify_bundle
from accordion_jax.delivery.bundle.variables import Loaded, load_variables
from accordion_jax.depth import LookupTable
from tests.commands import ROOT, command_environment
from tests.test_main import CONFIG, finish, wait_for

pytestmark = pytest.mark.slow

SMALL = (
    "--config.model.arguments.channels=(4,8)",
    "--config.run.eval_every_epochs=0",
    "--config.run.log_every_steps=10",
)
ARGUMENTS = (
    "--config.scheme=blockcoml",
    "--config.model.arguments.stage_sizes=(3,3)",
    "--config.train.steps=6",
    "--config.sweep.own_statistics=8",
    "--config.sweep.examples=64",
)


def start(*arguments):
    command = (sys.executable, "-m", "accordion_jax.main", f"--config={CONFIG}", *SMALL)
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=command_environment(1),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return f"--config.run.compilation_cache={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module")
def broken(tmp_path_factory, cache):
    """(workdir, when the first file was written) of a run that was killed after it."""
    workdir = tmp_path_factory.mktemp("broken")
    process = start(cache, *ARGUMENTS, f"--workdir={workdir}")
    first = workdir / "own_statistics" / "blockcoml-1.safetensors"
    wait_for(first.exists, process)
    process.kill()
    finish(process)
    assert not (workdir / "lookup_table.json").exists()
    at = first.stat().st_mtime_ns
    process = start(cache, *ARGUMENTS, f"--workdir={workdir}")
    output = finish(process)
    assert process.returncode == 0, output
    return workdir, at


def test_killed_in_between_it_goes_on_and_ends_the_same(broken, tmp_path, cache):
    workdir, at = broken
    folder = workdir / "own_statistics"
    assert (folder / "blockcoml-1.safetensors").stat().st_mtime_ns == at
    process = start(cache, *ARGUMENTS, f"--workdir={tmp_path}")
    output = finish(process)
    assert process.returncode == 0, output
    for path in (tmp_path / "own_statistics").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    one, other = (LookupTable.read(each) for each in (workdir, tmp_path))
    assert one.rows == other.rows
    said = one.provenance["statistics"]
    assert said == other.provenance["statistics"]
    assert said["batches"] == 8
    assert list(said["own"]) == ["blockcoml-1", "blockcoml-2"]
    assert "own statistics, of 8 batches, of blockcoml-1, blockcoml-2" in output


@pytest.mark.parametrize("bits", ["32", "4,8"])
def test_it_becomes_a_bundle_whose_rows_are_what_a_device_gets(broken, tmp_path, run_command, bits):
    workdir = broken[0]
    made = run_command(
        "accordion_jax.bundle", f"--workdir={workdir}", f"--out={tmp_path}", f"--bits={bits}"
    )
    assert made.returncode == 0, made.stderr
    assert "own       statistics of 2 configurations" in made.stdout
    [bundle] = tmp_path.iterdir()
    manifest = verify_bundle(bundle)
    own = [each for each in manifest.ladder if each.statistics]
    assert {each.statistics for each in own} == {
        "statistics-blockcoml-1",
        "statistics-blockcoml-2",
    }
    for each in own:
        shared = manifest.rows[f"{each.name}.shared"]
        sent = manifest.by_name[each.statistics].size_bytes
        assert manifest.rows[each.name].size_bytes == shared.size_bytes + sent
    test = data.load("digits", "test").select(np.arange(64))
    network = runtimes.make(manifest)
    inputs = network.task.prepare(test.inputs)
    for configuration in manifest.ladder:
        variables = load_variables(
            manifest, lambda sha256: segment_path(bundle, sha256).read_bytes(), configuration
        )
        outputs = network.compile(configuration, [Loaded(variables, None)], 64)(inputs)
        row = manifest.rows[configuration.name]
        assert (row.examples, row.errors) == (64, np.sum(outputs.argmax(-1) != test.targets))
    if bits == "32":
        table = LookupTable.read(workdir)
        assert {r.configuration: r.errors for r in table.rows}.items() <= {
            name: row.errors for name, row in manifest.rows.items()
        }.items()


@pytest.mark.tries("measures them and writes a new table")
def test_statistics_of_another_table_are_refused(broken, tmp_path, run_command, cache):
    workdir = broken[0]
    path = workdir / "own_statistics" / "blockcoml-2.safetensors"
    content = path.read_bytes()
    path.unlink()
    arguments = ("accordion_jax.bundle", f"--workdir={workdir}", f"--out={tmp_path}", "--bits=32")
    refused = run_command(*arguments)
    assert refused.returncode != 0
    assert "blockcoml-2.safetensors is missing, damaged or of other weights" in refused.stderr
    assert not list(tmp_path.iterdir())
    process = start(cache, *ARGUMENTS, f"--workdir={workdir}")  # as it says
    finish(process)
    assert process.returncode == 0
    assert path.read_bytes() == content
    assert run_command(*arguments).returncode == 0


@pytest.mark.tries("set it to 0")
def test_a_ladder_that_needs_none_is_refused_before_it_trains(tmp_path, cache):
    stages = "--config.model.arguments.stage_sizes=(1,1)"
    arguments = (cache, stages, "--config.train.steps=2", f"--workdir={tmp_path}")
    process = start("--config.sweep.own_statistics=8", *arguments)
    output = finish(process)
    assert process.returncode != 0
    assert "config.sweep.own_statistics=8: no configuration of coml-0, coml-1, coml-2 keeps" in (
        output
    )
    assert "Traceback" not in output
    assert not (tmp_path / "checkpoints").exists()
    process = start("--config.sweep.own_statistics=0", *arguments)
    output = finish(process)
    assert process.returncode == 0, output
    facts = json.loads((tmp_path / "lookup_table.json").read_text())["provenance"]
    assert "statistics" not in facts
    assert not (tmp_path / "own_statistics").exists()
