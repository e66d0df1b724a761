"""A run's folder: one process works in it, and nothing is kept where it would be lost."""

import contextlib
import errno
import os
import platform
import subprocess
import sys

import filelock
import pytest

from accordion_jax.runs import folder
from tests.commands import ROOT

# Holds a run until its input ends.
_HOLDS = """
import sys
from accordion_jax.runs import folder
with folder.held([sys.argv[1]]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(workdir):
    """A process that holds a run; gives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(workdir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_only_one_process_works_on_a_run(tmp_path):
    with another_process(tmp_path / "run") as process:
        assert folder.holder(tmp_path / "run") == folder.Holder(process.pid, platform.node())
        with pytest.raises(folder.BusyError) as refused, folder.held([tmp_path / "run"]):
            pytest.fail("two processes work on a run")
        assert str(refused.value) == (
            f"process {process.pid} on {platform.node()} works on {tmp_path / 'run'}; wait until "
            f"it has ended, or stop it (kill {process.pid})"
        )
        # As the message advises; a kill that nobody can answer to leaves the file of the holder.
        process.kill()
        process.wait()
    assert folder.holder(tmp_path / "run") is None
    with folder.held([tmp_path / "run"]):
        assert folder.holder(tmp_path / "run").pid == os.getpid()
    assert folder.holder(tmp_path / "run") is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.lock"]


def test_of_several_runs_all_are_held_or_none(tmp_path):
    with another_process(tmp_path / "b"):
        with pytest.raises(folder.BusyError, match="/b;"):
            folder.held([tmp_path / "a", tmp_path / "b"]).__enter__()
        assert folder.holder(tmp_path / "a") is None


def test_a_run_named_twice_is_held_once(tmp_path):
    with folder.held([tmp_path, tmp_path]):
        assert folder.holder(tmp_path).pid == os.getpid()


def test_where_there_can_be_no_locks_work_goes_on(tmp_path, monkeypatch):
    def acquire(self, **kwargs):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    (tmp_path / "run.lock").touch()
    with folder.held([tmp_path]):
        assert folder.holder(tmp_path) is None


def test_looking_for_a_holder_makes_nothing(tmp_path):
    assert folder.holder(tmp_path / "none") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": "x"}', '{"pid": -5, "host": "h"}', ""])
def test_a_damaged_file_of_the_holder_is_no_failure(tmp_path, text):
    with another_process(tmp_path):
        (tmp_path / "holder.json").write_text(text)
        assert folder.holder(tmp_path).pid is None
        with pytest.raises(folder.BusyError, match=r"process unknown on .*, or stop it$"):
            folder.held([tmp_path]).__enter__()


@pytest.mark.parametrize("name", ["[trial]", "a*b", "what?", "a\\b", "x/[1]/run"])
def test_a_path_that_is_taken_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"checkpoints cannot be kept in .* for a pattern; use"):
        folder.check_path(tmp_path / name)


def test_the_path_may_be_refused_for_where_it_is_relative_to(tmp_path, monkeypatch):
    (tmp_path / "[trial]").mkdir()
    monkeypatch.chdir(tmp_path / "[trial]")
    with pytest.raises(ValueError, match=r"\[trial\]/run: the library"):
        folder.check_path("run")


@pytest.mark.parametrize("name", ["a b", "a,b", "100%", "{1}", "ünï", "a=1", "#1", "~x", "(1)"])
def test_other_paths_are_not(tmp_path, name):
    folder.check_path(tmp_path / name)
