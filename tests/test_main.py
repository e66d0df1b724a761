"""The main job as a user runs it: killed, stopped, misused, on several devices and processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from accordion_jax import training
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.variables import load_variables
from accordion_jax.depth import LookupTable
from accordion_jax.runs.reporting import End, read_end
from accordion_jax.training.statistics import as_measured
from tests.commands import ROOT, call_main, command_environment

pytestmark = pytest.mark.slow

CONFIG = "configs/quickstart.py"
# A small network on few steps: what is tested is the job, not what it learns.
SMALL = (
    "--config.model.arguments.stage_sizes=(1,1)",
    "--config.model.arguments.channels=(4,8)",
    "--config.run.eval_every_epochs=0",
    "--config.run.log_every_steps=10",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, shared by the runs of this file."""
    return f"--config.run.compilation_cache={tmp_path_factory.mktemp('cache')}"


def command(*arguments):
    return [
        *(sys.executable, "-m", "accordion_jax.main", f"--config={CONFIG}", *SMALL),
        *map(str, arguments),
    ]


def start(*arguments, devices=1):
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=command_environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, timeout=1200):
    output, _ = process.communicate(timeout=timeout)
    return output


def wait_for(condition, process, timeout=1200.0):
    """Polls until the condition holds; fails where the process ends first."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.0005)
    process.kill()
    pytest.fail(f"nothing happened in {timeout} s: {process.stdout.read()}")


def checkpoint_steps(workdir):
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def reached(workdir):
    return max(record["step"] for record in training.read_metrics(workdir / "metrics.jsonl"))


def final_parameters(workdir):
    return training.load_run(workdir).variables


def assert_same_parameters(one, other):
    import jax

    jax.tree.map(np.testing.assert_array_equal, final_parameters(one), final_parameters(other))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, cache):
    """A finished run of 40 steps, and what it printed."""
    workdir = tmp_path_factory.mktemp("unbroken")
    process = start(cache, f"--workdir={workdir}", "--config.train.steps=40", *EVERY_STEP)
    output = finish(process)
    assert process.returncode == 0, output
    return workdir, output


EVERY_STEP = ("--config.run.checkpoint_every_steps=1", "--config.run.keep_checkpoints=3")


def test_writes_everything_and_ends_with_a_summary(unbroken):
    workdir, output = unbroken
    for name in (
        "config.json",
        "model.json",
        "metrics.jsonl",
        "lookup_table.json",
        "lookup_table.csv",
        "error_vs_size.png",
    ):
        assert (workdir / name).stat().st_size > 0, name
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert checkpoint_steps(workdir) == [38, 39, 40]
    table = LookupTable.read(workdir)
    assert [row.depth for row in table.rows] == [0, 1, 2]
    assert {row.examples for row in table.rows} == {360}
    assert table.provenance["step"] == table.provenance["total_steps"] == 40
    assert f"workdir: {workdir}" in output
    assert "top-1 error (95 % interval)" in output
    assert str(workdir / "error_vs_size.png") in output
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["train"]["steps"] == 40
    assert config["versions"]["jax"]


def test_no_other_framework_is_loaded(tmp_path):
    code = (
        "import sys, accordion_jax.main\n"
        "from accordion_jax.training.metrics import MetricWriter\n"
        f"writer = MetricWriter({str(tmp_path)!r}, 0)\n"
        "writer.write(1, 'train', {'loss': 1.0})\n"
        "writer.close()\n"
        "sys.exit(' '.join({'tensorflow', 'torch'} & {*sys.modules}) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_killed_in_training_and_in_checkpointing_it_ends_bit_for_bit_the_same(
    tmp_path, unbroken, cache
):
    arguments = (cache, f"--workdir={tmp_path}", "--config.train.steps=40", *EVERY_STEP)
    process = start(*arguments)
    wait_for(lambda: (checkpoint_steps(tmp_path) or [0])[-1] >= 5, process)
    process.kill()
    finish(process)
    reached = checkpoint_steps(tmp_path)[-1]
    assert 5 <= reached < 40

    def is_writing():
        return list((tmp_path / "checkpoints").glob("*.orbax-checkpoint-tmp"))

    for _ in range(10):  # the write takes some milliseconds; try until one is caught in it
        process = start(*arguments)
        wait_for(
            lambda last=reached: is_writing() and checkpoint_steps(tmp_path)[-1] > last, process
        )
        process.kill()
        finish(process)
        reached = checkpoint_steps(tmp_path)[-1]
        if is_writing():
            break
    else:
        pytest.fail("no run was killed in the middle of a checkpoint")
    assert reached < 40

    process = start(*arguments)
    output = finish(process)
    assert process.returncode == 0, output
    assert f"goes on from step {reached} of 40" in output
    assert_same_parameters(tmp_path, unbroken[0])
    assert LookupTable.read(tmp_path).rows == LookupTable.read(unbroken[0]).rows


@pytest.mark.tries("saved at step {}; the same command goes on from there")
def test_sigterm_saves_and_exits_cleanly(tmp_path, cache):
    arguments = (cache, f"--workdir={tmp_path}", "--config.train.steps=100000")
    process = start(*arguments, "--config.run.checkpoint_every_steps=1000000")
    wait_for(lambda: len(training.read_metrics(tmp_path / "metrics.jsonl")) >= 1, process)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    (step,) = checkpoint_steps(tmp_path)
    assert f"saved at step {step}; the same command goes on from there" in output
    assert read_end(tmp_path) == End("preempted", step)
    # As it says.
    process = start(*arguments, "--config.run.checkpoint_every_steps=1000000")
    wait_for(lambda: reached(tmp_path) > step, process)
    process.send_signal(signal.SIGTERM)
    assert f"goes on from step {step} of 100000" in finish(process)


def test_a_finished_run_only_sweeps_again(unbroken, cache):
    workdir, _ = unbroken
    before = (workdir / "metrics.jsonl").read_text()
    process = start(
        *(cache, f"--workdir={workdir}", "--config.train.steps=40", *EVERY_STEP),
        *("--config.sweep.depths=(1,)", "--config.sweep.examples=100"),
    )
    output = finish(process)
    assert process.returncode == 0, output
    assert (workdir / "metrics.jsonl").read_text() == before
    table = LookupTable.read(workdir)
    assert [(row.depth, row.examples) for row in table.rows] == [(1, 100), (2, 100)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config.train.epoch=3",), 'Did you mean "epochs" instead of "epoch"?'),
        (
            ("--config.policy.name=listed", "--config.policy.probabilities=(0.5,0.2,0.1)"),
            "error: the policy's 3 probabilities sum to 0.8, not to 1",
        ),
        (("--config.train.steps=41",), "config.train.steps: 40 -> 41"),
        (("extra",), "unexpected argument 'extra'"),
    ],
)
def test_misuse_is_told_in_words(unbroken, cache, arguments, words):
    process = start(
        cache, f"--workdir={unbroken[0]}", "--config.train.steps=40", *EVERY_STEP, *arguments
    )
    output = finish(process)
    assert process.returncode != 0
    assert words in output
    assert "Traceback" not in output


def test_damaged_checkpoint_is_told_in_words(tmp_path, cache):
    arguments = (cache, f"--workdir={tmp_path}", "--config.train.steps=2", *EVERY_STEP)
    assert "lookup_table.json" in finish(start(*arguments))
    for path in (tmp_path / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    process = start(*arguments)
    output = finish(process)
    assert process.returncode == 1
    assert f"error: checkpoint {tmp_path}/checkpoints/2" in output
    assert "it goes on from step 1" in output
    assert "Traceback" not in output


def test_batch_of_the_paper_on_eight_devices_names_the_nearest(tmp_path):
    process = start(f"--workdir={tmp_path}", "--config.train.batch_size=124", devices=8)
    output = finish(process)
    assert process.returncode == 1
    words = "batch_size=124 is not divisible by 8 devices; nearest: 120, 128"
    assert words in output
    assert read_end(tmp_path).state == "failed"
    assert words in read_end(tmp_path).error


def test_sweep_on_eight_devices_counts_the_same_hits(unbroken, cache, tmp_path):
    import shutil

    workdir = tmp_path / "copy"
    shutil.copytree(unbroken[0], workdir)
    rows = []
    for devices in (1, 8):
        process = start(
            *(cache, f"--workdir={workdir}", "--config.train.steps=40", *EVERY_STEP),
            "--config.sweep.batch_size=17",
            devices=devices,
        )
        output = finish(process)
        assert process.returncode == 0, output
        rows.append([(row.errors, row.examples) for row in LookupTable.read(workdir).rows])
    assert rows[0] == rows[1]


def finish_together(*arguments):
    """What two processes print that share a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    both = [start(*arguments, address, "--processes=2", f"--process={i}") for i in range(2)]
    outputs = [finish(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(outputs)
    return outputs


def test_two_processes_train_and_sweep_together_and_one_writes(tmp_path, cache):
    arguments = (
        *("--config.train.steps=6", "--config.run.checkpoint_every_steps=3"),
        *(f"--workdir={tmp_path / 'run'}", "--config.run.compilation_cache=off"),
    )
    outputs = finish_together(*arguments)
    table = LookupTable.read(tmp_path / "run")
    assert {row.examples for row in table.rows} == {360}
    assert table.provenance["versions"]["processes"] == "2"
    assert "top-1 error" in outputs[0]
    assert "top-1 error" not in outputs[1]
    steps = [record["step"] for record in training.read_metrics(tmp_path / "run/metrics.jsonl")]
    assert steps == [6]
    assert checkpoint_steps(tmp_path / "run") == [3, 6]


@pytest.mark.tries("all of them on one picture: python -m accordion_jax.report")
def test_several_seeds_at_once_leave_a_run_each(tmp_path, run_command):
    arguments = (
        *(f"--workdir={tmp_path}", "--seeds=0,2", "--config.policy.seed=0"),
        *("--config.train.steps=4", "--config.run.compilation_cache=off"),
        "--config.policy.full_probability=1.0",  # so that one step is compiled
    )
    output = finish_together(*arguments)[0]  # two processes: what one does, and more
    for seed in (0, 2):
        table = LookupTable.read(tmp_path / f"seed{seed}")
        assert (table.provenance["seed"], table.provenance["step"]) == (seed, 4)
        assert f"  {tmp_path / f'seed{seed}' / 'error_vs_size.png'}" in output
    one, two = (final_parameters(tmp_path / f"seed{seed}")["params"] for seed in (0, 2))
    assert np.any(one["stem"]["conv"]["kernel"] != two["stem"]["conv"]["kernel"])
    # What it says of a picture, done.
    said = re.search(r"python -m (accordion_jax\.report) (.*) --out=FILE\.png", output)
    run_command(said[1], *said[2].split(), f"--out={tmp_path / 'p.png'}").check_returncode()
    assert (tmp_path / "p.png").stat().st_size > 0
    assert ("seeds at once are for GPUs" in output) == (jax.default_backend() != "gpu")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds=0,1"], "would draw different depths"),
        (["--seeds=0,one", "--config.policy.seed=0"], "--seeds=0,one must be whole numbers"),
        (["--seeds=1,1", "--config.policy.seed=0"], "must differ"),
        (["--config.objective=expected"], "config.objective is now config.objective.name"),
        (["--config.objective.name=expectd"], "choose one of ['drawn_depth', 'expected',"),
        (["--config.objective.distillation=0.5"], "want several configurations in a step"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused_in_words(tmp_path, flags, message):
    process = start(f"--workdir={tmp_path / 'run'}", *flags)
    output = finish(process)
    assert process.returncode == 1
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("config.json"))


def test_a_run_goes_on_from_a_bundle(tmp_path, cache):
    run, bundles, finer = tmp_path / "run", tmp_path / "bundles", tmp_path / "finer"
    assert "trained to step 60" in finish(
        start(f"--workdir={run}", cache, "--config.train.steps=60")
    )
    bundle_command = [sys.executable, "-m", "accordion_jax.bundle", f"--workdir={run}"]
    subprocess.run(
        [*bundle_command, f"--out={bundles}", "--bits=8"],
        **{"cwd": ROOT, "env": command_environment(1), "check": True},
    )
    (bundle,) = bundles.iterdir()
    arguments = (
        *(f"--workdir={finer}", cache, "--config.train.steps=10", "--config.train.bits=4,8"),
        *(f"--config.train.start_from={bundle}", "--config.optimizer.learning_rate=0.001"),
        *(f"--config.train.teacher={bundle}", "--config.objective.distillation=0.5"),
    )
    output = finish(start(*arguments))
    assert f"begins with the weights of {bundle}" in output
    assert f"learns from the answers of {bundle}" in output
    assert "what the norms see of weights as they are" in output
    assert "trained to step 10" in output
    # What it has learnt is not lost by folding, rounding and unfolding.
    full = [LookupTable.read(each).rows[-1].top1_error for each in (run, finer)]
    assert full[1] <= full[0] + 0.1
    # Sent as its weights are, it has the statistics that its table was measured with.
    trained = training.load_run(finer)
    call_main("bundle", f"--workdir={finer}", f"--out={tmp_path / 'whole'}", "--bits=32")
    (whole,) = (tmp_path / "whole").iterdir()
    sent = load_variables(
        read_manifest(whole), lambda sha256: segment_path(whole, sha256).read_bytes()
    )
    wanted = as_measured(trained).variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, sent["batch_stats"], wanted)
    left = trained.variables["batch_stats"]
    assert np.any(sent["batch_stats"]["stem"]["norm"]["var"] != left["stem"]["norm"]["var"])
    # Cut short, it is refused in a line.
    segment = next((bundle / "segments").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1])
    output = finish(start(*arguments[1:], f"--workdir={tmp_path / 'other'}"))
    assert "Traceback" not in output
    assert segment.stem in output


@pytest.mark.tries("first; give --bits=")
@pytest.mark.tries("cut one of it first")
def test_a_run_trains_what_a_refinement_adds(tmp_path, cache):
    run, refined, bundles = tmp_path / "run", tmp_path / "refined", []
    assert "trained to step 60" in finish(
        start(f"--workdir={run}", cache, "--config.train.steps=60")
    )
    arguments = (
        *("--config.train.steps=20", "--config.train.within_bits=4", cache),
        "--config.train.bits=8",
        *("--config.optimizer.learning_rate=0.02", "--config.policy.full_probability=1.0"),
    )
    source = f"--config.train.start_from={run}"
    said = finish(start(source, f"--workdir={tmp_path / 'none'}", *arguments))
    advised = f"python -m accordion_jax.bundle --workdir={run} --out=DIR --bits=4"
    assert f"is none; cut one of it first: {advised}" in said
    out = tmp_path / "bundles"
    call_main("bundle", *advised.replace("DIR", str(out)).split()[3:])
    (first,) = out.iterdir()
    source = f"--config.train.start_from={first}"
    output = finish(start(source, f"--workdir={refined}", *arguments))
    assert "trained to step 20" in output
    for wrong in ("5,8", "4"):
        with pytest.raises(ValueError, match=rf"4 bits of {first}, .* give --bits=4,8"):
            call_main("bundle", f"--workdir={refined}", f"--out={out}", f"--bits={wrong}")
    call_main("bundle", f"--workdir={refined}", f"--out={out}", "--bits=4,8")
    (second,) = set(out.iterdir()) - {first}
    bundles = [read_manifest(each) for each in (first, second)]
    # What is sent first is what is out already, to the byte, and in the end it is what it became.
    there, now = ({s.name: s.sha256 for s in each.segments} for each in bundles)
    assert there.items() <= now.items()
    tables = [{row.configuration: row for row in each.table.rows} for each in bundles]
    for name in tables[0].keys() & tables[1].keys():
        assert tables[0][name].top1_error == tables[1][name].top1_error
    full = LookupTable.read(refined).full
    assert abs(tables[1]["coml-2.8"].top1_error - full.top1_error) < 0.02
