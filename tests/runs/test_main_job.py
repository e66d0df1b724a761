"""The main job and its run's folder: it keeps others out, and takes no folder where all is lost."""

import os
import platform

import pytest

from accordion_jax.runs import folder
from tests.commands import ROOT

CONFIG = f"--config={ROOT / 'configs/quickstart.py'}"


@pytest.mark.parametrize("flags", [(), ("--seeds=0", "--config.policy.seed=0")])
def test_two_main_jobs_do_not_work_on_one_run(tmp_path, run_command, flags):
    workdir = tmp_path / "seed0" if flags else tmp_path
    with folder.held([workdir]):
        before = sorted(path.name for path in workdir.iterdir())
        finished = run_command("accordion_jax.main", CONFIG, f"--workdir={tmp_path}", *flags)
        assert sorted(path.name for path in workdir.iterdir()) == before
    assert finished.returncode == 1
    (line,) = (line for line in finished.stderr.splitlines() if not line[:2].isdigit())
    assert line.startswith(
        f"error: process {os.getpid()} on {platform.node()} works on {workdir}; wait until"
    )


def test_a_folder_where_checkpoints_would_be_lost_is_refused_before_training(tmp_path, run_command):
    workdir = tmp_path / "[trial]" / "run"
    finished = run_command("accordion_jax.main", CONFIG, f"--workdir={workdir}")
    assert finished.returncode == 1
    (line,) = (line for line in finished.stderr.splitlines() if not line[:2].isdigit())
    assert line.startswith(f"error: checkpoints cannot be kept in {workdir}: ")
    assert not list(tmp_path.iterdir())
