"""The grid command: killed and resumed, it ends as if nothing had happened."""

import functools
import json
import sys

import pytest

from accordion_jax.depth import LookupTable
from accordion_jax.runs import grid
from accordion_jax.runs import process as job
from accordion_jax.runs.reporting import read_end, read_progress
from accordion_jax.runs.sessions import read_sessions
from accordion_jax.system.command import CommandError
from accordion_jax.system.files import write_whole
from tests.commands import call_main, command_environment
from tests.runs.test_grid_plan import QUICKSTART, a_table
from tests.runs.test_process import work_on

TINY = (
    "--config.model.arguments.stage_sizes=(1,1,1)",
    "--config.model.arguments.channels=(4,4,4)",
    "--config.policy.full_probability=1.0",  # one variant to compile
    "--config.policy.min_depth=1",
    "--config.train.steps=40",
    # A checkpoint falls between two records, and the kill between two checkpoints.
    "--config.run.log_every_steps=10",
    "--config.run.checkpoint_every_steps=7",
    "--config.run.eval_every_epochs=0",
)
NAME = "quickstart-1_seed0"

# The main job, which is killed when it has taken so many steps.
_KILLED = """
import os, signal, sys
from accordion_jax import main
from accordion_jax.runs.reporting import Reporter

at, update = int(sys.argv.pop(1)), Reporter.update

def killing(self, step, **kwargs):
    update(self, step, **kwargs)
    if step == at:
        os.kill(os.getpid(), signal.SIGKILL)

Reporter.update = killing
main.run(sys.argv)
"""


def arguments(folder, *more):
    places = [f"--runs={folder / 'runs'}", f"--out={folder / 'out'}", *more]
    return [f"--configs={QUICKSTART}", *places, "--", *overrides(folder)]


def overrides(folder):
    return (*TINY, f"--config.run.compilation_cache={folder.parent / 'cache'}")


def numbers(folder):
    """What a finished grid leaves of its run, without what is measured with a clock."""
    kept = folder / "out" / NAME
    records = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    curve = [{k: v for k, v in each.items() if k != "images_per_second"} for each in records]
    return LookupTable.read(kept).rows, curve


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_as_an_unbroken_one(tmp_path, run_command, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", command_environment()["XLA_FLAGS"])
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finished = run_command("accordion_jax.grid", *arguments(unbroken))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{NAME}  done" in finished.stdout

    (run,) = grid.plan([QUICKSTART], [0], broken / "runs", overrides(broken))

    def command(run):
        python, *unbuffered_module = job.main_command(run)
        return [python, "-c", _KILLED, "26", *unbuffered_module[3:]]

    verdict = work_on(run, command)
    assert verdict.state == "failed", verdict
    assert "ended by SIGKILL" in verdict.reason
    assert read_end(run.workdir) is None
    report = read_progress(run.workdir)
    assert 21 <= report.step <= 26  # written at the checkpoint, or within a second after it
    assert report.saved_step in (14, 21)

    resumed = run_command("accordion_jax.grid", *arguments(broken))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    log = (run.workdir / job.LOG_FILE).read_text()
    (goes_on,) = (line for line in log.splitlines() if "goes on from step" in line)
    # What was said to be saved is there.
    assert int(goes_on.split()[-3]) >= report.saved_step
    assert numbers(broken) == numbers(unbroken)
    assert read_end(run.workdir).state == "done"
    sessions = json.loads((broken / "out" / NAME / "sessions.json").read_text())["sessions"]
    assert [each["last_step"] for each in sessions] == [report.saved_step, 40]
    assert grid.look(run).state == "done"


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Calls the command in this process, with a stand-in for the main job."""

    def command(run):
        table = tmp_path / f"{run.name}.json"
        table.write_text(a_table(run.config, 6, 6).to_json())
        fails = "raise ValueError('this seed fails')" if run.config["seed"] == 0 else ""
        program = f"""if True:
            import pathlib
            from accordion_jax.runs.reporting import Reporter, ending
            workdir = pathlib.Path({str(run.workdir)!r})
            with ending([workdir], preempted=KeyboardInterrupt):
                {fails}
                Reporter([workdir], 6, batch_size=1).update(6, saved=lambda: [6])
                text = pathlib.Path({str(table)!r}).read_text()
                (workdir / "lookup_table.json").write_text(text)
        """
        return [sys.executable, "-c", program]

    monkeypatch.setattr(job, "work_on", functools.partial(job.work_on, command=command))

    def call(*more):
        where = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
        call_main("grid", f"--configs={QUICKSTART}", *where, *more)

    return call


def test_a_failing_run_stops_no_other_and_gives_exit_code_1(call, tmp_path, capsys):
    with pytest.raises(CommandError, match="1 of 2 runs failed; the table says why"):
        call("--seeds=0,1")
    lines = capsys.readouterr().out.splitlines()
    (failed,) = (line for line in lines if line.startswith("quickstart-05_seed0"))
    assert "failed" in failed
    assert "this seed fails (exit code 1; see " in failed
    (done,) = (line for line in lines if line.startswith("quickstart-05_seed1"))
    assert done.split()[1:3] == ["done", "6/6"]
    assert done.endswith("50.00%")
    rows = json.loads((tmp_path / "out" / "grid.json").read_text())["runs"]
    assert [(row["name"], row["state"], row["step"]) for row in rows] == [
        ("quickstart-05_seed0", "failed", 0),
        ("quickstart-05_seed1", "done", 6),
    ]
    kept = {path.name for path in (tmp_path / "out" / "quickstart-05_seed1").iterdir()}
    assert {"lookup_table.json", "sessions.json"} <= kept


def test_what_is_done_is_not_done_again(call, tmp_path, capsys):
    call("--seeds=1")
    call("--seeds=1")
    assert "done (step 6 of 6): before" in capsys.readouterr().out
    assert len(read_sessions(tmp_path / "runs" / "quickstart-05_seed1")) == 1


def test_a_damaged_file_of_one_run_stops_no_other(call, tmp_path, capsys):
    record = tmp_path / "runs" / "quickstart-05_seed1" / "sessions.json"
    write_whole(record, "{")
    with pytest.raises(CommandError, match="1 of 2 runs failed"):
        call("--seeds=1,2")
    lines = capsys.readouterr().out.splitlines()
    (failed,) = (line for line in lines if line.startswith("quickstart-05_seed1"))
    assert f"{record} is damaged" in failed
    (done,) = (line for line in lines if line.startswith("quickstart-05_seed2"))
    assert done.split()[1] == "done"
    record.unlink()
    call("--seeds=1,2")


def test_without_time_nothing_is_started(call, tmp_path, capsys):
    call("--seeds=1", "--budget_s=1e-9", "--grace_s=1e-10")
    assert "not begun: the time budget is used up" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget_s=60"], "wanted 120 or more, or less grace"),
        (["--budget_s=-1"], "--budget_s=-1 and --grace_s=60: wanted a budget of 0"),
        (["--budget_s=nan"], "--budget_s=nan and --grace_s=60: wanted a budget of 0"),
        (["--grace_s=0"], "a positive grace"),
        (["--seeds=0,one"], "--seeds has 'one'; wanted whole numbers"),
    ],
)
def test_refuses_before_anything_starts(call, tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        call(*arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configs=configs/quickstrat.py"], "did you mean configs/quickstart.py?"),
        (["--budget_minutes=25"], "--budget_minutes is now --budget_s (in seconds)"),
    ],
)
def test_fails_in_one_line(tmp_path, run_command, arguments, words):
    finished = run_command("accordion_jax.grid", *arguments, f"--runs={tmp_path / 'runs'}")
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
