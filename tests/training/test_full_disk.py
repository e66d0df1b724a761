"""The disk fills in training: one line says so, nothing is lost, and with room it goes on."""

import errno
import json
import os
import re
import subprocess
import sys
import threading

import orbax.checkpoint as ocp
import pytest

from accordion_jax import data, training
from accordion_jax.runs.folder import METRICS_FILE, PROGRESS_FILE
from accordion_jax.runs.reporting import read_end
from accordion_jax.system.room import NoRoomError
from accordion_jax.training.metrics import MetricWriter, read_metrics
from tests.commands import ROOT, command_environment
from tests.disks import small_disk
from tests.training.test_loop import assert_same, make


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def orbax_is_late(self):
    """As Orbax tells of what its threads could not write."""
    try:
        full()
    except OSError:
        raise ValueError("commit of step 6 failed") from None  # __context__ still has it


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    return data.unreplicate(training.train(make(), workdir)), read_metrics(workdir / METRICS_FILE)


@pytest.mark.parametrize(
    ("where", "name", "fault", "what"),
    [
        (ocp.CheckpointManager, "save", full, "6"),
        (ocp.CheckpointManager, "wait_until_finished", orbax_is_late, "6"),
        (training.metrics.MetricWriter, "write", None, METRICS_FILE),
        (training.loop.Reporter, "update", None, PROGRESS_FILE),
    ],
    ids=["checkpoint", "checkpoint, told late", "metrics", "progress"],
)
@pytest.mark.tries("make room, and run the same command again{}{}")
def test_it_says_what_is_saved_and_goes_on_with_room(
    tmp_path, monkeypatch, unbroken, where, name, fault, what
):
    genuine = getattr(where, name)

    def from_step_6(self, *args, **kwargs):
        if args[:1] == (6,) or list((tmp_path / "checkpoints").glob("6*")):
            if fault is None:
                raise NoRoomError(tmp_path / what, "No space left on device")
            fault(self)
        return genuine(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, from_step_6)
        with pytest.raises(NoRoomError) as caught:
            training.train(make(), tmp_path)
    assert f" for {what} (" in str(caught.value)
    (step,) = re.findall("it goes on from step (.), the last that is saved$", str(caught.value))
    steps = [int(each.name) for each in (tmp_path / "checkpoints").iterdir()]
    assert int(step) == max(steps)
    assert min(steps) == 3
    state = data.unreplicate(training.train(make(), tmp_path))
    assert_same(state, unbroken[0])
    kept = [[r["step"], r["loss"]] for r in read_metrics(tmp_path / METRICS_FILE)]
    assert kept == [[r["step"], r["loss"]] for r in unbroken[1]]


@pytest.mark.parametrize("writes", ["record", "event"])
def test_metrics_that_cannot_be_written_are_an_error_and_no_hang(tmp_path, monkeypatch, writes):
    threads = threading.active_count()
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, "train", {"loss": 1.0})
    if writes == "record":
        monkeypatch.setattr(writer, "_file", FullRecords())
    else:
        monkeypatch.setattr(writer._board._events, "_py_recordio_writer", FullRecords())
    with pytest.raises(NoRoomError, match="No space left on device"):
        writer.write(2, "train", {f"error_depth_{depth}": 0.5 for depth in range(50)})
    monkeypatch.undo()
    writer.close()
    assert threading.active_count() == threads  # none that could wait for ever
    assert read_metrics(tmp_path / METRICS_FILE)[0] == {"step": 1, "split": "train", "loss": 1.0}


class FullRecords:
    write = flush = close = full


def test_what_a_board_reads_is_what_was_written(tmp_path):
    """TensorBoard's own reader is not installed with the project; the records' frames are plain."""
    with_purge = MetricWriter(tmp_path, 4)
    with_purge.write(5, "train", {"loss": 1.5})
    with_purge.close()
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    events = training.metrics._tensorboard().proto.event_pb2
    left, found = path.read_bytes(), []
    while left:
        length = int.from_bytes(left[:8], "little")
        found.append(events.Event.FromString(left[12 : 12 + length]))
        left = left[12 + length + 4 :]
    version, purge, loss = found
    assert version.file_version == "brain.Event:2"
    assert (purge.step, purge.session_log.status) == (5, events.SessionLog.START)
    assert (loss.step, loss.summary.value[0].tag) == (5, "train/loss")
    assert loss.summary.value[0].simple_value == 1.5


_COMMAND = (
    *(sys.executable, "-m", "accordion_jax.main", "--config=configs/quickstart.py"),
    "--config.model.arguments.stage_sizes=(1,1)",
    "--config.model.arguments.channels=(4,8)",
    "--config.run.eval_every_epochs=0",
    "--config.run.log_every_steps=1",
    "--config.train.steps=20",
    "--config.run.checkpoint_every_steps=1",
    "--config.run.keep_checkpoints=100",
)


_LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
    "os.execv(sys.executable, sys.argv[1:])"
)


def run(workdir, *more, limited=False):
    prefix = [sys.executable, "-c", _LIMITED] if limited else []
    return subprocess.run(
        [*prefix, *_COMMAND, f"--workdir={workdir}", *more],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def assert_one_line(finished):
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    lines = [line for line in lines if not re.match(r"\d\d:\d\d:\d\d ", line)]  # the log
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: no room in ")
    assert "make room, and run the same command again: it " in lines[0]
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("size_kb", [100, 500, 920])
def test_a_disk_that_is_really_full(tmp_path, size_kb):
    small, cache = tmp_path / "small", tmp_path / "cache"
    small.mkdir()
    # The smaller disk is filled by compiled programs, which are kept in the workdir by default.
    more = [] if size_kb < 900 else [f"--config.run.compilation_cache={cache}"]
    with small_disk(small, size_kb << 10) as resize:
        line = assert_one_line(run(small / "run", *more))
        assert "No space left on device" in line
        reached = re.findall("it goes on from step ([0-9]+)", line)
        end = read_end(small / "run")  # where there was room for it
        assert end is None or (end.state == "failed" and end.error == line.removeprefix("error: "))
        resize(64 << 20)
        finished = run(small / "run", *more)
        assert finished.returncode == 0, finished.stderr
        if reached:
            assert f"goes on from step {reached[0]} of 20" in finished.stderr
        steps = [r["step"] for r in read_metrics(small / "run" / METRICS_FILE)]
        assert steps == list(range(1, 21))
        assert json.loads((small / "run" / PROGRESS_FILE).read_text())["saved_step"] == 20


@pytest.mark.slow
def test_files_that_may_not_get_larger(tmp_path):
    """As with a quota; nothing is mounted for this one."""
    no_cache = "--config.run.compilation_cache=off"
    line = assert_one_line(run(tmp_path / "run", no_cache, limited=True))
    assert "File too large" in line
    finished = run(tmp_path / "run", no_cache)
    assert finished.returncode == 0, finished.stderr
