"""The notebook for Colab: runs from top to bottom, installs by itself, and is committed clean."""

import contextlib
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest

from accordion_jax.depth import LookupTable
from tests.commands import ROOT, command_environment

PATH = ROOT / "launch/colab/accordion.ipynb"

# A small network for two epochs, over a link on which its 0.1 Mbit take about two seconds.
SMALL = f"""
REPOSITORY = {str(ROOT)!r}
EPOCHS = 2
MORE_FLAGS = [
    "--config.model.arguments.stage_sizes=(1,1,1)",
    "--config.model.arguments.channels=(4,8,8)",
    "--config.optimizer.warmup_epochs=0.5",
    "--config.run.eval_every_epochs=0",
]
LINK_BPS = 1e5
"""
PROBE = """
import json
print(json.dumps({
    "history": [[c.name, seconds, len(classes)] for c, seconds, classes in history],
    "in_use": device.in_use.name,
    "running": runtime.configuration.name,
    "full": manifest.ladder[-1].name,
    "problems": [*outcome.problems, *runtime.problems],
    "whole_s": whole_s,
    "work": str(work),
}))
"""


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def cell(notebook, name):
    return next(each for each in notebook.cells if each["id"] == name)


def text_of(cell):
    return "".join(each["text"] for each in cell["outputs"] if each["output_type"] == "stream")


@pytest.mark.slow
def test_runs_from_top_to_bottom_and_ends_with_the_full_model(notebook, tmp_path):
    settings = cell(notebook, "parameters")
    assert settings["metadata"]["tags"] == ["parameters"]
    after = notebook.cells.index(settings) + 1
    notebook.cells.insert(after, nbformat.v4.new_code_cell(SMALL))
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    environment = command_environment() | {
        # Its kernel is this environment's, whatever others a person has registered.
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)

    found = json.loads(text_of(notebook.cells[-1]))
    assert found["in_use"] == found["running"] == found["full"] == "coml-3"
    assert found["problems"] == []
    names, seconds, classified = zip(*found["history"], strict=True)
    assert names == ("coml-0", "coml-1", "coml-2", "coml-3")
    assert list(seconds) == sorted(set(seconds))
    assert set(classified) == {360}
    assert seconds[0] < found["whole_s"] < seconds[-1]

    work = pathlib.Path(found["work"])
    assert work == tmp_path / "runs/notebook/quickstart_2_epochs"
    table = LookupTable.read(work)
    assert [row.configuration for row in table.rows] == list(names)
    assert len(list(work.glob("bundles/*/segments/*.bin"))) == 4
    by_deadline = re.search(r"with ([\d,]+) of ([\d,]+) bytes", text_of(cell(notebook, "deadline")))
    part, whole = (int(number.replace(",", "")) for number in by_deadline.groups())
    assert 0 < part < whole
    # Down and up again, with nothing sent.
    lines = text_of(cell(notebook, "step-down")).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "3"]
    assert all(line.endswith("; 0 bytes sent") for line in lines)
    assert f"{table.full.top1_error:.1%}" in lines[1]

    with_pictures = {
        each["id"]
        for each in notebook.cells
        for output in each.get("outputs", ())
        if "image/png" in output.get("data", ())
    }
    assert with_pictures == {"curve", "shares", "time", "images"}
    written_to_stderr = [
        (each["id"], output["text"])
        for each in notebook.cells
        for output in each.get("outputs", ())
        if output.get("name") == "stderr"
    ]
    assert written_to_stderr == []


def test_is_committed_clean(notebook):
    nbformat.validate(notebook)
    for each in notebook.cells:
        # A path that begins at the root is one of somebody's own machine.
        assert not re.search(r"(^|[\s\"'(=`])(/|[A-Z]:\\)\w", each["source"]), each["source"]
        if each["cell_type"] == "code":
            assert each["outputs"] == []
            assert each["execution_count"] is None
    assert notebook["metadata"].keys() <= {"colab", "kernelspec", "language_info"}


def test_its_experiments_are_those_of_configs(notebook):
    line = cell(notebook, "parameters")["source"].split("EXPERIMENT = ")[1].splitlines()[0]
    default, choices = line.split("  # @param ")
    experiments = json.loads(choices)
    assert json.loads(default) in experiments
    for experiment in experiments:
        config, _, variant = experiment.partition(":")
        source = (ROOT / f"configs/{config}.py").read_text()
        assert not variant or f":{variant}" in source
        assert f"| `{experiment}` |" in cell(notebook, "settings")["source"]


def install(notebook, folder, **settings):
    """Executes the cell that installs, in a folder, and returns its variables."""
    variables = {"REPOSITORY": "", **settings}
    with contextlib.chdir(folder):
        exec(compile(cell(notebook, "install")["source"], "install", "exec"), variables)
    return variables


def test_asks_for_the_repository_where_it_cannot_know_it(notebook, tmp_path):
    with pytest.raises(ValueError, match="REPOSITORY is empty and this is no clone"):
        install(notebook, tmp_path)


@pytest.mark.parametrize("folder", [PATH.parent, ROOT])
def test_finds_the_clone_that_it_was_opened_in(notebook, folder):
    assert install(notebook, folder)["CLONE"] == ROOT


def test_clones_once(notebook, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    origin = tmp_path / "origin"
    (origin / "configs").mkdir(parents=True)
    (origin / "configs/quickstart.py").touch()
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=first"],
    ):
        subprocess.run(["git", *command], cwd=origin, check=True)
    here = tmp_path / "here"
    here.mkdir()
    for _ in range(2):
        clone = install(notebook, here, REPOSITORY=origin.as_uri())["CLONE"]
        assert clone == here / "accordion"
    assert (clone / "configs/quickstart.py").is_file()


@pytest.mark.parametrize(
    ("present", "extras"),
    [((), []), (("jax-cuda12-plugin",), ["jax[cuda12]"]), (("libtpu", "x"), ["jax[tpu]"])],
)
def test_installs_with_the_plugin_of_the_accelerator(notebook, monkeypatch, present, extras):
    ran = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    distributions = [type("Distribution", (), {"name": name}) for name in present]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: distributions)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    install(notebook, ROOT)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    assert ran == [[*pip, f"{ROOT}[device]", *extras]]


def test_a_command_that_fails_stops_the_notebook(notebook, monkeypatch, capfd):
    for name, value in command_environment().items():
        monkeypatch.setenv(name, value)
    run = install(notebook, ROOT)["run"]
    with pytest.raises(RuntimeError, match=r"accordion_jax.bundle failed"):
        run("bundle", "--workdir=nowhere", "--out=nowhere")
    assert "nowhere" in capfd.readouterr().out
