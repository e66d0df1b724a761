"""How far a run is and how it ended: what is written, when, and that it is read in doubt."""

import json

import pytest

from accordion_jax.runs import reporting
from accordion_jax.runs.reporting import End, Reporter


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(folder, clock, runs=1, **kwargs):
    workdirs = [folder / f"run{number}" for number in range(runs)]
    return Reporter(workdirs, 50, batch_size=20, clock=clock, **kwargs), workdirs


def test_says_how_far_how_fast_and_what_is_saved(tmp_path, clock):
    reporter, (workdir,) = make(tmp_path, clock)
    reporter.update(10, saved=lambda: [None])
    first = reporting.read_progress(workdir)
    assert (first.step, first.total_steps, first.saved_step) == (10, 50, 0)
    assert first.loss is first.examples_per_second is first.seconds_left is None
    clock.now += 2
    reporter.update(20, saved=lambda: [15], losses=[0.25])
    second = reporting.read_progress(workdir)
    # 10 steps of 20 examples in 2 seconds; 30 steps are left.
    assert (second.step, second.saved_step, second.loss) == (20, 15, 0.25)
    assert (second.examples_per_second, second.seconds_left) == (100.0, 6.0)
    assert second.written >= first.written > 1.6e9
    assert reporting.saved_step(workdir) == 15
    assert set(json.loads((workdir / "progress.json").read_text())) == {
        *("step", "total_steps", "saved_step", "loss"),
        *("examples_per_second", "seconds_left", "written"),
    }


def test_writes_at_most_once_a_second_unless_it_must(tmp_path, clock):
    reporter, (workdir,) = make(tmp_path, clock)
    asked = []

    def saved():
        asked.append(clock.now)
        return [1]

    for _ in range(30):
        reporter.update(3, saved=saved)
        clock.now += 0.125
    assert asked == [100.0, 101.0, 102.0, 103.0]
    reporter.update(4, saved=saved, now=True)
    assert reporting.read_progress(workdir).step == 4


def test_each_run_has_its_own_numbers(tmp_path, clock):
    reporter, workdirs = make(tmp_path, clock, runs=2)
    reporter.update(10, saved=lambda: [10, 5], losses=[1.5, float("nan")])
    reports = [reporting.read_progress(each) for each in workdirs]
    assert [(each.saved_step, each.loss) for each in reports] == [(10, 1.5), (5, None)]


def test_all_processes_but_the_first_write_nothing(tmp_path, clock):
    reporter, (workdir,) = make(tmp_path, clock, enabled=False)
    reporter.update(10, saved=lambda: [1], now=True)
    assert reporting.read_progress(workdir) is None
    assert reporting.saved_step(workdir) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"step": 1, "total_steps": 2}',
        '{"step": -1, "total_steps": 2, "saved_step": 1}',
        '{"step": 1.5, "total_steps": 2, "saved_step": 1}',
        '{"step": true, "total_steps": 2, "saved_step": 1}',
        '{"step": "1", "total_steps": 2, "saved_step": 1}',
    ],
)
def test_a_damaged_file_says_nothing(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    assert reporting.read_progress(tmp_path) is None


def test_numbers_that_are_none_are_left_out(tmp_path):
    text = '{"step": 1, "total_steps": 2, "saved_step": 1, "loss": NaN, "seconds_left": "soon"}'
    (tmp_path / "progress.json").write_text(text)
    report = reporting.read_progress(tmp_path)
    assert (report.step, report.loss, report.seconds_left) == (1, None, None)


class Told(Exception):  # noqa: N818
    pass


def ends_with(folder, error):
    left = []

    def work():
        with reporting.ending([folder], preempted=Told):
            left.append(reporting.read_end(folder))
            raise error

    with pytest.raises(type(error)):
        work()
    assert left == [None]
    return reporting.read_end(folder)


def test_says_how_it_ended(tmp_path, clock):
    reporter = Reporter([tmp_path], 50, batch_size=20)
    reporter.update(10, saved=lambda: [7])
    with reporting.ending([tmp_path], preempted=Told):
        pass
    assert reporting.read_end(tmp_path) == End("done", 7)
    # What was there is gone when the next one starts.
    assert ends_with(tmp_path, Told()) == End("preempted", 7)
    assert ends_with(tmp_path, ValueError("two\n  lines")) == End("failed", 7, "two lines")
    assert ends_with(tmp_path, KeyError("x")) == End("failed", 7, "KeyError: 'x'")
    assert ends_with(tmp_path, KeyboardInterrupt()) == End("failed", 7, "KeyboardInterrupt")
    assert ends_with(tmp_path, SystemExit(3)) == End("failed", 7, "SystemExit: 3")
    long = ends_with(tmp_path, RuntimeError("x" * 10_000)).error
    assert len(long) == 1000
    assert long.endswith("x…")


def test_a_killed_process_leaves_no_end(tmp_path):
    with reporting.ending([tmp_path], preempted=Told):
        pass
    unfinished = reporting.ending([tmp_path], preempted=Told)
    unfinished.__enter__()
    assert reporting.read_end(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"state": "well"}'])
def test_a_damaged_end_is_none(tmp_path, text):
    (tmp_path / "end.json").write_text(text)
    assert reporting.read_end(tmp_path) is None


def test_an_end_that_cannot_be_written_hides_no_failure(tmp_path, monkeypatch):
    def full(path, document):
        raise OSError("the disk is full")

    monkeypatch.setattr(reporting, "write_json", full)
    unfinished = reporting.ending([tmp_path], preempted=Told)
    with pytest.raises(ValueError, match="what counts"), unfinished:
        raise ValueError("what counts")
