"""Runs a grid of configs and seeds within a time budget, and goes on where it stopped.

    python -m accordion_jax.grid --configs=configs/resnet56_coml.py,configs/resnet56_resnet.py \
        --seeds=0,1,2 --out=results --budget_s=1500 -- --config.data.name=cifar100

What is done is skipped, what is not is resumed, and a run that fails does not stop the others. Each
run is a process of `accordion_jax.main` with its own folder under --runs; its tables, curves,
config, hardware and time are copied to --out, from which `accordion_jax.report` draws. The command
can be killed at any moment. Several of them, one an accelerator, can share the same folders.
"""

import pathlib
import sys
import time

from absl import flags

from accordion_jax.runs import grid, process
from accordion_jax.runs.reporting import Report
from accordion_jax.runs.sessions import seconds_spent
from accordion_jax.system import command
from accordion_jax.system.files import write_json
from accordion_jax.system.progress import duration

_CONFIGS = flags.DEFINE_list("configs", [], "Config files, each FILE or FILE:VARIANT.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, each at least 0.")
_OUT = flags.DEFINE_string("out", "results", "Folder for the small result files.")
_RUNS = flags.DEFINE_string("runs", "runs", "Folder of the runs, with their checkpoints.")
_BUDGET = flags.DEFINE_float("budget_s", 0.0, "Ends within so many seconds; 0: no limit.")
_GRACE = flags.DEFINE_float(
    "grace_s", 60.0, "Seconds, within the budget, that a run has to save; then it is killed."
)
command.renamed(
    {"budget_minutes": "--budget_s (in seconds)", "grace_seconds": "--grace_s (in seconds)"}
)

# Seconds between two lines of a run's progress where there is no terminal.
_EVERY_S = 30.0


def main(argv: list[str]) -> None:
    """Works through the grid and prints how every run stands."""
    began = time.monotonic()
    budget = process.Budget(_stop_at(began), _GRACE.value)
    runs = grid.plan(_CONFIGS.value, _whole_numbers(_SEEDS.value), _RUNS.value, argv[1:])
    out = pathlib.Path(_OUT.value)
    screen = _Screen(len(runs))
    with budget:
        verdicts = []
        for number, run in enumerate(runs, 1):
            screen.begin(number, run.name)
            verdict = _one(run, budget, screen)
            grid.keep_small_files(run, out)
            screen.end(_words(verdict))
            verdicts.append(verdict)
            _write_summary(out, runs, verdicts)
    print(_table(runs, verdicts))
    spent = duration(time.monotonic() - began)
    print(f"{spent} now; results in {out}, runs in {_RUNS.value}")
    if failed := sum(verdict.state == "failed" for verdict in verdicts):
        raise command.CommandError(f"{failed} of {len(runs)} runs failed; the table says why")


def _one(run: grid.GridRun, budget: process.Budget, screen: "_Screen") -> process.Verdict:
    """How a run stands after it was worked on, if it needed that and there was time."""
    there = grid.look(run)
    if there.state == "done":
        return process.Verdict("done", there.step, there.step, "before")
    # What is left must be worth starting a process for.
    if budget.left_s < min(budget.grace_s, 10.0):
        return process.Verdict(there.state, there.step, None, budget.reason)
    try:
        return process.work_on(run, budget, show=screen.show, follow=screen.follow)
    except (ValueError, OSError) as error:  # of this run's folder: the others may be well
        return process.Verdict("failed", there.step, None, str(error))


def _stop_at(began: float) -> float:
    """When runs are told to stop, as `time.monotonic`."""
    budget_s, grace_s = _BUDGET.value, _GRACE.value
    if not budget_s >= 0 or not grace_s > 0:
        raise ValueError(
            f"--budget_s={budget_s:g} and --grace_s={grace_s:g}: wanted a budget of 0 (none) or "
            "more, and a positive grace"
        )
    if not budget_s:
        return float("inf")
    if budget_s < 2 * grace_s:
        raise ValueError(
            f"--budget_s={budget_s:g} is less than twice --grace_s={grace_s:g}: too little to "
            f"train in; wanted {2 * grace_s:g} or more, or less grace"
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
        self._label, self._followed = f"[{number}/{self._count}] {name}", float("-inf")
        self.show("starts")

    def show(self, news: str, end: bool = False) -> None:
        line = f"{self._label}: {news}"
        if self._inline:
            print(f"\r\x1b[K{line}" if end else f"\r\x1b[K{line[:118]}", end="", flush=True)
        elif news != "starts":
            print(line, flush=True)

    def follow(self, report: Report) -> None:
        """Shows how far a run is; elsewhere than on a terminal, now and then."""
        if self._inline or time.monotonic() - self._followed >= _EVERY_S:
            self._followed = time.monotonic()
            self.show(_far(report))

    def end(self, news: str) -> None:
        self.show(news, end=True)
        if self._inline:
            print()


def _far(report: Report) -> str:
    """How far a run is, in one line."""
    said = [f"step {report.step}/{report.total_steps}"]
    if report.loss is not None:
        said.append(f"loss {report.loss:.3f}")
    if report.examples_per_second is not None:
        said.append(f"{report.examples_per_second:.0f} examples/s")
    if report.seconds_left is not None:
        said.append(f"{duration(report.seconds_left)} left")
    return ", ".join(said)


def _spent_s(run: grid.GridRun) -> float:
    """Seconds spent on a run; 0 where its record is damaged, of which its verdict has told."""
    try:
        return seconds_spent(run.workdir)
    except ValueError:
        return 0.0


def _words(verdict: process.Verdict) -> str:
    """A verdict in one line."""
    of = f" of {verdict.total}" if verdict.total else ""
    step = f" (step {verdict.step}{of})" if verdict.step else ""
    return f"{verdict.state}{step}" + (f": {verdict.reason}" if verdict.reason else "")


def _table(runs: tuple[grid.GridRun, ...], verdicts: list[process.Verdict]) -> str:
    """How every run stands, as text."""
    width = max(len(run.name) for run in runs)
    lines = ["", f"{'run':{width}s}  state      step            time spent   full error"]
    for run, verdict in zip(runs, verdicts, strict=True):
        step = f"{verdict.step}/{verdict.total or '?'}"
        table = grid.look(run).table
        error = f"{table.full.top1_error:.2%}" if table else "-"
        reason = verdict.reason if verdict.state != "done" else ""
        spent = duration(_spent_s(run))
        line = f"{run.name:{width}s}  {verdict.state:9s}  {step:14s}  {spent:11s}  {error:>10s}"
        lines.append(f"{line}  {reason}".rstrip())
    return "\n".join(lines)


def _write_summary(
    out: pathlib.Path, runs: tuple[grid.GridRun, ...], verdicts: list[process.Verdict]
) -> None:
    """Writes ``<out>/grid.json``, how every run stands, for programs to read."""
    rows = [
        {
            "name": run.name,
            "config": run.spec,
            "overrides": list(run.overrides),
            "state": verdict.state,
            "step": verdict.step,
            "total_steps": verdict.total,
            "seconds": round(_spent_s(run), 1),
            "reason": verdict.reason,
        }
        for run, verdict in zip(runs, verdicts, strict=False)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "grid.json", {"runs": rows})


def run(argv: list[str] | None = None) -> None:
    """Runs the command."""
    command.run(main, argv=argv)


if __name__ == "__main__":
    run()
