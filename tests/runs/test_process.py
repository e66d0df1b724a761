"""One run's process: stopped in time, killed, taken over. A stand-in plays the main job."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from accordion_jax.runs import grid, process as job
from tests.runs.test_grid_plan import QUICKSTART, a_table

# Takes steps with a "checkpoint" each, from the newest there is; the table at the end. What it
# does at a signal, or at a step, comes from the environment.
_STAND_IN = """
    import json, os, pathlib, signal, sys, time
    workdir, table, total = pathlib.Path(sys.argv[1]), sys.argv[2], 6
    behaviour = os.environ.get("STAND_IN", "")
    asked = []
    handler = signal.SIG_IGN if behaviour == "deaf" else lambda *_: asked.append(1)
    signal.signal(signal.SIGTERM, handler)
    done = [int(each.name) for each in (workdir / "checkpoints").glob("*")]
    for step in range(max(done, default=0) + 1, total + 1):
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
        print(f"00:00:00 stand-in: step {step}/{total}, loss 1.0", flush=True)
        if behaviour == "fails":
            print("error: step 1 is too hard", flush=True)
            sys.exit(1)
        if behaviour == "crashes":
            os.kill(os.getpid(), signal.SIGKILL)
        while step == 2 and behaviour in ("waits", "deaf") and not asked:
            time.sleep(0.01)
        if asked:
            print(f"saved at step {step}")
            sys.exit(0)
    (workdir / "lookup_table.json").write_text(pathlib.Path(table).read_text())
"""


@pytest.fixture
def run(tmp_path):
    (run,) = grid.plan([QUICKSTART], [0], tmp_path / "runs")
    return run


@pytest.fixture
def command(tmp_path, run):
    script, table = tmp_path / "stand_in.py", tmp_path / "table.json"
    script.write_text(textwrap.dedent(_STAND_IN))
    table.write_text(a_table(run.config, 6, 6).to_json())
    return lambda run: [sys.executable, str(script), str(run.workdir), str(table)]


def until(condition, within_s=20.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.01)


class AtStep(job.Stop):
    """A stop whose time comes when the run has made a step."""

    def __init__(self, run, step, grace_s=10.0):
        super().__init__(grace_s=grace_s)
        self._run, self._step = run, step

    @property
    def left_s(self):
        return 0.0 if grid.latest_step(self._run.workdir) >= self._step else float("inf")


def test_runs_to_the_end_and_accounts_for_it(run, command):
    shown = []
    outcome = job.work_on(run, job.Stop(), show=shown.append, command=command)
    assert outcome == job.Outcome("done", 6, 6)
    assert shown[-1] == "stand-in: step 6/6, loss 1.0"
    (session,) = grid.read_sessions(run.workdir)
    assert (session["first_step"], session["last_step"]) == (0, 6)
    assert session["seconds"] > 0
    assert "open" not in session


def test_stops_in_time_and_goes_on_later(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "waits")
    outcome = job.work_on(run, AtStep(run, 2), show=print, command=command)
    assert outcome == job.Outcome("partly", 2, 6, "the time budget is used up")
    monkeypatch.setenv("STAND_IN", "")
    assert job.work_on(run, job.Stop(), show=print, command=command).state == "done"
    first, second = grid.read_sessions(run.workdir)
    assert (first["last_step"], second["first_step"], second["last_step"]) == (2, 2, 6)
    assert grid.seconds_spent(run.workdir) == first["seconds"] + second["seconds"]


def test_kills_a_run_that_does_not_save_in_time(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "deaf")
    outcome = job.work_on(run, AtStep(run, 2, grace_s=0.2), show=print, command=command)
    assert (outcome.state, outcome.step) == ("partly", 2)
    assert "killed, since it had not saved within 0.2 s" in outcome.reason


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("fails", r"^step 1 is too hard \(exit code 1; see .*log.txt\)$"),
        ("crashes", r"^ended by SIGKILL, as when memory runs out; see .*log.txt$"),
    ],
)
def test_says_why_a_run_failed(run, command, monkeypatch, behaviour, reason):
    monkeypatch.setenv("STAND_IN", behaviour)
    outcome = job.work_on(run, job.Stop(), show=print, command=command)
    assert outcome.state == "failed"
    assert re.search(reason, outcome.reason), outcome.reason


def test_a_signal_stops_the_run(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "waits")

    def show(line):
        if "step 2/" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with job.Stop() as stop:
        outcome = job.work_on(run, stop, show=show, command=command)
    assert outcome == job.Outcome("partly", 2, 6, "SIGTERM came")
    assert signal.getsignal(signal.SIGTERM) is before


def test_leaves_a_run_alone_that_another_grid_works_on(run, command):
    with job._lock(run, "grid"):
        outcome = job.work_on(run, job.Stop(), show=print, command=command)
    assert (outcome.state, outcome.reason) == ("busy", "another grid works on it")
    assert not run.workdir.exists()


def test_takes_over_what_a_killed_grid_left_at_work(run, command):
    program = f"""
        import sys
        from accordion_jax.runs import grid, process as job
        (run,) = grid.plan([{QUICKSTART!r}], [0], {str(run.workdir.parent)!r})
        job.work_on(run, job.Stop(), show=print, command=lambda run: {command(run)!r})
    """
    environment = os.environ | {
        "STAND_IN": "waits",
        "JAX_PLATFORMS": "none",  # a grid that asks for JAX's devices fails here
        "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2]),
    }
    killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)
    until(lambda: grid.latest_step(run.workdir) == 2)
    killed.kill()
    killed.wait()
    (session,) = grid.read_sessions(run.workdir)
    assert session["open"]

    shown = []
    outcome = job.work_on(run, job.Stop(), show=shown.append, command=command)
    assert outcome.state == "done"
    assert "takes over from process" in shown[0]
    assert "stand-in: step 2/6, loss 1.0" not in shown  # it went on, and did not begin again
    first, second = grid.read_sessions(run.workdir)
    assert "open" not in first
    assert second["first_step"] >= 2


def test_ends_a_left_process_that_does_not_listen(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "deaf")
    with contextlib.ExitStack() as held:
        lock = held.enter_context(job._lock(run, "run"))
        left = subprocess.Popen(command(run), pass_fds=[lock.fileno()])
        job._write_holder(lock, left.pid)
    until(lambda: grid.latest_step(run.workdir) == 2)
    monkeypatch.setenv("STAND_IN", "")
    outcome = job.work_on(run, job.Stop(grace_s=0.2), show=print, command=command)
    assert outcome.state == "done"
    assert left.wait() == -signal.SIGKILL


def test_does_not_end_a_process_of_another_host(run, command):
    with job._lock(run, "run") as lock:
        lock.write("1 elsewhere\n")
        lock.flush()
        outcome = job.work_on(run, job.Stop(), show=print, command=command)
    assert (outcome.state, outcome.reason) == ("busy", "process 1 on elsewhere works on it")


def test_seeds_of_a_grid_keep_their_programs_together(tmp_path):
    def caches(*overrides):
        runs = grid.plan([QUICKSTART], [0, 1], tmp_path, overrides)
        found = [[f for f in job.main_command(run) if "compilation_cache" in f] for run in runs]
        return {flags[-1] for flags in found}  # the last one counts

    (shared,) = caches()
    assert str(tmp_path) in shared
    asked = "--config.run.compilation_cache=off"
    assert caches(asked) == {asked}


def test_a_run_gets_large_pages_unless_its_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert job._environment()["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert job._environment()["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"
