"""One run's process: stopped in time, killed, taken over. A stand-in plays the main job."""

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from accordion_jax.runs import folder, grid
from accordion_jax.runs import process as job
from accordion_jax.runs.reporting import saved_step
from accordion_jax.runs.sessions import Session, read_sessions, seconds_spent
from accordion_jax.system.files import write_json
from accordion_jax.system.locks import locked
from tests.commands import ROOT
from tests.runs.test_grid_plan import QUICKSTART, a_table

# Takes steps with a "checkpoint" each, from the newest there is; the table at the end. What it
# does at a signal, or at a step, comes from the environment.
_STAND_IN = """
    import os, pathlib, signal, sys, time
    from accordion_jax.runs.folder import held
    from accordion_jax.runs.reporting import Reporter, ending, saved_step

    class Preempted(Exception):
        pass

    def work():
        reporter = Reporter([workdir], 6, batch_size=1)
        for step in range(saved_step(workdir) + 1, 7):
            reporter.update(step, saved=lambda: [step], losses=[1.0], now=True)
            if behaviour == "fails":
                raise ValueError("step 1 is too hard")
            if behaviour == "crashes":
                os.kill(os.getpid(), signal.SIGKILL)
            while step == 2 and behaviour in ("waits", "deaf") and not asked:
                time.sleep(0.01)
            if asked:
                raise Preempted
        if behaviour != "forgets":
            (workdir / "lookup_table.json").write_text(pathlib.Path(table).read_text())

    workdir, table = pathlib.Path(sys.argv[1]), sys.argv[2]
    behaviour = os.environ.get("STAND_IN", "")
    if behaviour == "mute":
        sys.exit(1)
    if behaviour == "misses":
        import a_package_that_is_not_there
    asked = []
    handler = signal.SIG_IGN if behaviour == "deaf" else lambda *_: asked.append(1)
    signal.signal(signal.SIGTERM, handler)
    try:
        with held([workdir]), ending([workdir], preempted=Preempted):
            work()
    except Preempted:
        pass
"""


@pytest.fixture
def run(tmp_path):
    (run,) = grid.plan([QUICKSTART], [0], tmp_path / "runs")
    return run


@pytest.fixture
def command(tmp_path, run, monkeypatch):
    script, table = tmp_path / "stand_in.py", tmp_path / "table.json"
    script.write_text(textwrap.dedent(_STAND_IN))
    table.write_text(a_table(run.config, 6, 6).to_json())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lambda run: [sys.executable, str(script), str(run.workdir), str(table)]


def until(condition, within_s=20.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.01)


class AtStep(job.Budget):
    """A budget that is used up when the run has saved a step."""

    def __init__(self, run, step, grace_s=1000.0):
        super().__init__(grace_s=grace_s)
        self._run, self._step = run, step

    @property
    def left_s(self):
        return 0.0 if saved_step(self._run.workdir) >= self._step else float("inf")


def work_on(run, command, budget=None, show=print, follow=print):
    """`process.work_on`, in silence."""
    return job.work_on(run, budget or job.Budget(), show=show, follow=follow, command=command)


def test_runs_to_the_end_and_accounts_for_it(run, command):
    followed = []
    verdict = work_on(run, command, follow=followed.append)
    assert verdict == job.Verdict("done", 6, 6)
    assert (followed[-1].step, followed[-1].total_steps, followed[-1].loss) == (6, 6, 1.0)
    (session,) = read_sessions(run.workdir)
    assert (session["first_step"], session["last_step"]) == (0, 6)
    assert session["seconds"] > 0
    assert "open" not in session
    assert folder.holder(run.workdir) is None


def test_stops_in_time_and_goes_on_later(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "waits")
    verdict = work_on(run, command, AtStep(run, 2))
    assert verdict == job.Verdict("partly", 2, 6, "the time budget is used up")
    monkeypatch.setenv("STAND_IN", "")
    assert work_on(run, command).state == "done"
    first, second = read_sessions(run.workdir)
    assert (first["last_step"], second["first_step"], second["last_step"]) == (2, 2, 6)
    assert seconds_spent(run.workdir) == first["seconds"] + second["seconds"]


def test_kills_a_run_that_does_not_save_in_time(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "deaf")
    verdict = work_on(run, command, AtStep(run, 2, grace_s=0.2))
    assert (verdict.state, verdict.step) == ("partly", 2)
    assert "killed, since it had not saved within 0.2 s" in verdict.reason


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("fails", r"^step 1 is too hard \(exit code 1; see .*log.txt\)$"),
        ("crashes", r"^ended by SIGKILL, as when memory runs out; see .*log.txt$"),
        ("misses", r"^ModuleNotFoundError: No module named 'a_package.*' \(exit code 1; see "),
        ("forgets", r"^it has ended, and left no table of this config; see .*log.txt$"),
    ],
)
def test_says_why_a_run_failed(run, command, monkeypatch, behaviour, reason):
    # What an earlier process has left does not count.
    write_json(run.workdir / "end.json", {"state": "failed", "error": "of old"})
    monkeypatch.setenv("STAND_IN", behaviour)
    verdict = work_on(run, command)
    assert verdict.state == "failed"
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.tries("no room in {}: make room, and run the same command again")
def test_a_run_whose_log_has_no_room_either(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "mute")
    assert work_on(run, command).reason.startswith("it wrote nothing (exit code 1; ")
    usage = shutil.disk_usage(ROOT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    reason = work_on(run, command).reason
    assert reason.startswith(f"no room in {run.workdir}: make room, and run the same command again")
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert work_on(run, command).state == "done"


def test_a_run_that_somebody_else_stops_is_not_a_failure(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "waits")

    def follow(report):
        if report.step == 2:
            os.kill(folder.holder(run.workdir).pid, signal.SIGTERM)

    verdict = work_on(run, command, follow=follow)
    assert verdict == job.Verdict("partly", 2, 6, "it was told to stop, and has saved")


def test_a_signal_stops_the_run(run, command, monkeypatch):
    monkeypatch.setenv("STAND_IN", "waits")

    def follow(report):
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with job.Budget() as budget:
        verdict = work_on(run, command, budget, follow=follow)
    assert verdict == job.Verdict("partly", 2, 6, "SIGTERM came")
    assert signal.getsignal(signal.SIGTERM) is before


def test_leaves_a_run_alone_that_another_grid_works_on(run, command):
    with locked(run.workdir.parent / ".grid" / f"{run.name}.lock") as mine:
        assert mine
        verdict = work_on(run, command)
    assert (verdict.state, verdict.reason) == ("busy", "another grid works on it")
    assert not run.workdir.exists()


def test_takes_over_what_a_killed_grid_left_at_work(run, command):
    program = f"""
        from accordion_jax.runs import grid, process as job
        (run,) = grid.plan([{QUICKSTART!r}], [0], {str(run.workdir.parent)!r})
        job.work_on(run, job.Budget(), show=print, follow=print, command=lambda _: {command(run)!r})
    """
    environment = os.environ | {
        "STAND_IN": "waits",
        "JAX_PLATFORMS": "none",  # a grid that asks for JAX's devices fails here
    }
    killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)
    until(lambda: saved_step(run.workdir) == 2)
    killed.kill()
    killed.wait()
    (session,) = read_sessions(run.workdir)
    assert session["open"]

    shown = []
    verdict = work_on(run, command, show=shown.append)
    assert verdict.state == "done"
    assert shown == [
        f"takes over from process {session['pid']}, which an ended grid has left at work"
    ]
    first, second = read_sessions(run.workdir)
    assert "open" not in first
    assert (first["last_step"], second["first_step"]) == (2, 2)  # it went on: no step was lost


@contextlib.contextmanager
def at_step_2(run, command, behaviour):
    """A process that is at work on the run, started by no grid of this test."""
    environment = os.environ | {"STAND_IN": behaviour}
    with subprocess.Popen(command(run), env=environment) as process:
        until(lambda: saved_step(run.workdir) == 2)
        try:
            yield process
        finally:
            process.kill()


def test_ends_a_left_process_that_does_not_listen(run, command):
    with at_step_2(run, command, "deaf") as left:
        Session(run.workdir).open(left.pid)  # as the grid had written it before it was killed
        verdict = work_on(run, command, job.Budget(grace_s=0.2))
        assert verdict.state == "done"
        assert left.wait() == -signal.SIGKILL


def test_does_not_end_a_process_that_no_grid_has_started(run, command):
    with at_step_2(run, command, "waits") as by_hand:
        verdict = work_on(run, command)
        assert (verdict.state, verdict.step) == ("busy", 2)
        assert verdict.reason == f"process {by_hand.pid} on {platform.node()} works on it"
        assert by_hand.poll() is None


def test_does_not_end_a_process_of_another_host(run, command):
    with folder.held([run.workdir]):
        elsewhere = {"pid": 1, "host": "elsewhere"}
        write_json(run.workdir / "holder.json", elsewhere)
        session = elsewhere | {"seconds": 1.0, "open": True, "started": "2025-01-31T12:00:00+00:00"}
        write_json(run.workdir / "sessions.json", {"sessions": [session]})
        verdict = work_on(run, command)
    assert verdict.state == "busy"
    assert "process 1 on elsewhere, which an ended grid has left at work" in verdict.reason


def test_a_process_that_comes_too_late_is_not_a_failure(run, command):
    with contextlib.ExitStack() as stack:

        def late(run):
            stack.enter_context(folder.held([run.workdir]))
            return command(run)

        verdict = work_on(run, late)
    assert verdict.state == "busy"
    assert verdict.reason == f"process {os.getpid()} on {platform.node()} works on it"


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
