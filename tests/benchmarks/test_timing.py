"""Samples that were taken in turn are compared pair by pair."""

from benchmarks.timing import Sample, clocked, interleaved


def test_ratios_are_of_the_pairs():
    # The machine was ten times slower in the second repeat: of both.
    ours, theirs = Sample((1.0, 10.0, 1.0)), Sample((2.0, 20.0, 4.0))
    assert ours.per(theirs) == Sample((0.5, 0.5, 0.25))
    assert ours.per(theirs).median == 0.5
    assert theirs.rate(40) == Sample((20.0, 2.0, 10.0))
    assert f"{theirs:.1f}" == "4.0 (2.0 to 20.0)"


def test_work_runs_in_turn_who_begins_alternates_and_the_first_round_does_not_count():
    calls = []

    def taking(name, seconds):
        def run():
            calls.append(name)
            return float(seconds + len(calls))

        return run

    found = interleaved({"a": taking("a", 100), "b": taking("b", 200)}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert found == {"a": Sample((103.0, 106.0, 107.0)), "b": Sample((204.0, 205.0, 208.0))}


def test_the_clock_runs_while_the_work_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    assert clocked(lambda: now.__setitem__(0, now[0] + 7.5))() == 7.5
