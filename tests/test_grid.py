"""The grid command: killed, out of time and resumed, it ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from accordion_jax.depth import LookupTable
from accordion_jax.runs import grid
from tests.conftest import ROOT, command_environment

TINY = (
    "--config.model.arguments.stage_sizes=(1,1,1)",
    "--config.model.arguments.channels=(4,4,4)",
    "--config.policy.full_probability=1.0",  # one variant to compile
    "--config.policy.min_depth=1",
    "--config.train.steps=100",
    # Of one length, so that a record covers the same steps after an interruption.
    "--config.run.log_every_steps=10",
    "--config.run.checkpoint_every_steps=10",
    "--config.run.eval_every_epochs=0",
)
NAME = "quickstart-1_seed0"


def arguments(folder, *more):
    flags = [f"--runs={folder / 'runs'}", f"--out={folder / 'out'}", *more]
    cache = f"--config.run.compilation_cache={folder.parent / 'cache'}"
    return ["--configs=configs/quickstart.py", *flags, "--", *TINY, cache]


def numbers(folder):
    """What a finished grid leaves of its run, without what is measured with a clock."""
    kept = folder / "out" / NAME
    records = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    curve = [{k: v for k, v in each.items() if k != "images_per_second"} for each in records]
    return LookupTable.read(kept).rows, curve


@pytest.mark.slow
def test_a_killed_and_resumed_grid_ends_as_an_unbroken_one(tmp_path, run_command):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finished = run_command("accordion_jax.grid", *arguments(unbroken))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{NAME}  done" in finished.stdout

    # The grid and its run are killed in the middle.
    process = subprocess.Popen(
        [sys.executable, "-m", "accordion_jax.grid", *arguments(broken)],
        cwd=ROOT,
        env=command_environment(),
        stdout=subprocess.DEVNULL,
    )
    workdir = broken / "runs" / NAME
    while not grid.latest_step(workdir):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    holder = (broken / "runs" / ".grid" / f"{NAME}.run.lock").read_text()
    os.kill(int(holder.split()[0]), signal.SIGKILL)
    assert not (workdir / "lookup_table.json").exists()

    # The next has hardly any time, and the one after it enough.
    stopped = run_command(
        "accordion_jax.grid", *arguments(broken, "--budget_minutes=0.04", "--grace_seconds=1")
    )
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert f"{NAME}  partly" in stopped.stdout
    assert "the time budget is used up" in stopped.stdout
    (row,) = json.loads((broken / "out" / "grid.json").read_text())["runs"]
    assert (row["name"], row["state"]) == (NAME, "partly")
    assert 0 < row["step"] < 100
    resumed = run_command("accordion_jax.grid", *arguments(broken))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr

    assert numbers(broken) == numbers(unbroken)
    sessions = json.loads((broken / "out" / NAME / "sessions.json").read_text())["sessions"]
    assert len(sessions) == 3
    assert sessions[-1]["last_step"] == 100
    again = run_command("accordion_jax.grid", *arguments(broken, "--seeds=0"))
    assert "done (step 100 of 100): before" in again.stdout


def test_a_failing_run_stops_no_other_and_gives_exit_code_1(tmp_path, run_command):
    # Digits have no 2,000 training images: only the run itself finds that out.
    finished = run_command(
        "accordion_jax.grid",
        *arguments(tmp_path, "--seeds=0,1"),
        "--config.train.batch_size=2000",
    )
    assert finished.returncode == 1
    for seed in (0, 1):
        assert f"quickstart-1_seed{seed}  failed" in finished.stdout
    assert "config.train.batch_size=2000 is more than the 1437 training" in finished.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--configs=configs/quickstrat.py"], "did you mean configs/quickstart.py?"),
        (
            ["--configs=configs/quickstart.py", "--budget_minutes=1"],
            "wanted 2 minutes or more, or less grace",
        ),
    ],
)
def test_refuses_before_anything_starts(tmp_path, run_command, flags, words):
    finished = run_command("accordion_jax.grid", *flags, f"--runs={tmp_path / 'runs'}")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert words in finished.stderr
    assert not (tmp_path / "runs").exists()
