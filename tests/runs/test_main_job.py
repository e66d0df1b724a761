"""The main job and its run's folder: it keeps others out, and takes no folder where all is lost."""

import logging
import os
import platform
import warnings

import jax
import pytest

from accordion_jax.runs import folder
from tests.commands import ROOT, command_alone

_OF_THE_CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
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


def test_trouble_with_compiled_programs_is_told_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "jit_a-cache").touch()  # what a full disk leaves; JAX would never replace it
    (tmp_path / "jit_b-cache").write_bytes(b"whole")
    before = {name: getattr(jax.config, name) for name in _OF_THE_CACHE}
    monkeypatch.setattr(logging.getLogger("accordion_jax"), "propagate", True)
    with command_alone("main") as main, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        try:
            main._set_compilation_cache(str(tmp_path), tmp_path / "run")
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
        assert [path.name for path in tmp_path.iterdir()] == ["jit_b-cache"]
        for program in ("jit_a", "jit_b"):
            warnings.warn(
                "Error writing persistent compilation cache entry for "
                f"'{program}': OSError: [Errno 28] No space left on device",
                stacklevel=1,
            )
        warnings.warn("something else", stacklevel=1)
    (told,) = caplog.messages
    assert "'jit_a': OSError: [Errno 28] No space left on device: the run goes on" in told
    assert f"If the disk of {tmp_path} is full, make room" in told
    assert [str(each.message) for each in shown] == ["something else"]


def test_a_folder_where_checkpoints_would_be_lost_is_refused_before_training(tmp_path, run_command):
    workdir = tmp_path / "[trial]" / "run"
    finished = run_command("accordion_jax.main", CONFIG, f"--workdir={workdir}")
    assert finished.returncode == 1
    (line,) = (line for line in finished.stderr.splitlines() if not line[:2].isdigit())
    assert line.startswith(f"error: checkpoints cannot be kept in {workdir}: ")
    assert not list(tmp_path.iterdir())
