"""Runs a grid of configs and seeds within a time budget, and goes on where it stopped.

    python -m accordion_jax.grid --configs=configs/resnet56_coml.py,configs/resnet56_resnet.py \
        --seeds=0,1,2 --out=results --budget_minutes=25 -- --config.data.name=cifar100

What is done is skipped, what is not is resumed, and a run that fails does not stop the others. Each
run is a process of `accordion_jax.main` with its own folder under --runs; its tables, curves,
config, hardware and time are copied to --out, from which `accordion_jax.report` draws. The command
can be killed at any moment. Several of them, one an accelerator, can share the same folders.
"""

import pathlib
import sys
import time

from absl import app, flags

from accordion_jax.runs import grid
from accordion_jax.runs import process as job
from accordion_jax.system.files import write_json

_CONFIGS = flags.DEFINE_list("configs", [], "Config files, each FILE or FILE:VARIANT.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, each at least 0.")
_OUT = flags.DEFINE_string("out", "results", "Folder for the small result files.")
_RUNS = flags.DEFINE_string("runs", "runs", "Folder of the runs, with their checkpoints.")
_BUDGET = flags.DEFINE_float("budget_minutes", 0.0, "Ends within so many minutes; 0: no limit.")
_GRACE = flags.DEFINE_float(
    "grace_seconds", 60.0, "Of the budget, what a run has to save; then it is killed."
)


def main(argv: list[str]) -> None:
    """Works through the grid and prints how every run stands."""
    began = time.monotonic()
    stop = job.Stop(_stop_at(began), _GRACE.value)
    runs = grid.plan(_CONFIGS.value, _whole_numbers(_SEEDS.value), _RUNS.value, argv[1:])
    out = pathlib.Path(_OUT.value)
    screen = _Screen(len(runs))
    with stop:
        outcomes = []
        for number, run in enumerate(runs, 1):
            screen.begin(number, run.name)
            outcome = _one(run, stop, screen)
            grid.keep_small_files(run, out)
            screen.end(_words(outcome))
            outcomes.append(outcome)
            _write_summary(out, runs, outcomes)
    print(_table(runs, outcomes))
    print(f"{_minutes(time.monotonic() - began)} now; results in {out}, runs in {_RUNS.value}")
    if any(outcome.state == "failed" for outcome in outcomes):
        sys.exit(1)


def _one(run: grid.GridRun, stop: job.Stop, screen: "_Screen") -> job.Outcome:
    """How a run stands after it was worked on, if it needed that and there was time."""
    there = grid.look(run)
    if there.state == "done":
        return job.Outcome("done", there.step, there.step, "before")
    # What is left must be worth starting a process for.
    if stop.left_s < min(stop.grace_s, 10.0):
        return job.Outcome(there.state, there.step, None, stop.reason)
    try:
        return job.work_on(run, stop, show=screen.show)
    except (ValueError, OSError) as error:  # of this run's folder: the others may be well
        return job.Outcome("failed", there.step, None, str(error))


def _stop_at(began: float) -> float:
    """When runs are told to stop, as `time.monotonic`."""
    budget_s, grace_s = _BUDGET.value * 60, _GRACE.value
    if budget_s < 0 or grace_s <= 0:
        raise ValueError(
            f"--budget_minutes={_BUDGET.value:g} and --grace_seconds={grace_s:g}: wanted a budget "
            "of 0 (none) or more, and a positive grace"
        )
    if not budget_s:
        return float("inf")
    if budget_s < 2 * grace_s:
        raise ValueError(
            f"--budget_minutes={_BUDGET.value:g} is less than twice --grace_seconds={grace_s:g}: "
            f"too little to train in; wanted {2 * grace_s / 60:g} minutes or more, or less grace"
        )
    return began + budget_s - grace_s


def _whole_numbers(texts: list[str]) -> list[int]:
    for text in texts:
        if not text.strip().isdecimal():
            raise ValueError(f"--seeds has {text!r}; wanted whole numbers, as in --seeds=0,1,2")
    return [int(text) for text in texts]


class _Screen:
    """One line a run: rewritten in place on a terminal; elsewhere a line for each news."""

    def __init__(self, count: int):
        self._count, self._inline = count, sys.stdout.isatty()

    def begin(self, number: int, name: str) -> None:
        self._label = f"[{number}/{self._count}] {name}"
        self.show("starts")

    def show(self, news: str, end: bool = False) -> None:
        line = f"{self._label}: {news}"
        if self._inline:
            print(f"\r\x1b[K{line}" if end else f"\r\x1b[K{line[:118]}", end="", flush=True)
        elif news != "starts":
            print(line, flush=True)

    def end(self, news: str) -> None:
        self.show(news, end=True)
        if self._inline:
            print()


def _words(outcome: job.Outcome) -> str:
    """An outcome in one line."""
    of = f" of {outcome.total}" if outcome.total else ""
    step = f" (step {outcome.step}{of})" if outcome.step else ""
    return f"{outcome.state}{step}" + (f": {outcome.reason}" if outcome.reason else "")


def _table(runs: tuple[grid.GridRun, ...], outcomes: list[job.Outcome]) -> str:
    """How every run stands, as text."""
    width = max(len(run.name) for run in runs)
    lines = ["", f"{'run':{width}s}  state      step            time spent   full error"]
    for run, outcome in zip(runs, outcomes, strict=True):
        step = f"{outcome.step}/{outcome.total or '?'}"
        table = grid.look(run).table
        error = f"{table.full.top1_error:.2%}" if table else "-"
        reason = outcome.reason if outcome.state != "done" else ""
        spent = _minutes(grid.seconds_spent(run.workdir))
        line = f"{run.name:{width}s}  {outcome.state:9s}  {step:14s}  {spent:11s}  {error:>10s}"
        lines.append(f"{line}  {reason}".rstrip())
    return "\n".join(lines)


def _write_summary(
    out: pathlib.Path, runs: tuple[grid.GridRun, ...], outcomes: list[job.Outcome]
) -> None:
    """Writes ``<out>/grid.json``, how every run stands, for programs to read."""
    rows = [
        {
            "name": run.name,
            "config": run.spec,
            "overrides": list(run.overrides),
            "state": outcome.state,
            "step": outcome.step,
            "total_steps": outcome.total,
            "seconds": round(grid.seconds_spent(run.workdir), 1),
            "reason": outcome.reason,
        }
        for run, outcome in zip(runs, outcomes, strict=False)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "grid.json", {"runs": rows})


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def run(argv: list[str] | None = None) -> None:
    """Runs `main` with errors a person can act on in place of tracebacks."""

    def guarded(arguments: list[str]) -> None:
        try:
            main(arguments)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded, argv=argv)


if __name__ == "__main__":
    run()
