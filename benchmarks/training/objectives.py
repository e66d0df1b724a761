"""What each objective costs: time and memory of a step, and the time until the first one.

    python -m benchmarks.training.objectives --depth_n=3 --batch_size=128

Each method in a process of its own, their steps in turn with those of the plain network, which
trains the full depth alone. A mean step is that of the run's own draws: each program is timed, and
weighted by how often it comes. Where there are more than --programs of them, as many are timed,
evenly spaced by the blocks that they keep, and each stands for those nearest to it. The last column
is the time of a method's mean step over that of the plain one: what an experiment that gives all
methods the same wall time divides its epochs by.

Time on two CPU cores: six minutes for --depth_n=3 --repeats=5.
"""

import collections
import contextlib
from typing import Any

import jax
from absl import flags

from accordion_jax.training import Draw
from benchmarks.options import JSON, REPEATS, asked, run
from benchmarks.ours import Ours
from benchmarks.report import Report
from benchmarks.sides import Side
from benchmarks.timing import Sample, interleaved
from benchmarks.work import Options

_PROGRAMS = flags.DEFINE_integer("programs", 9, "Timed of each method.", lower_bound=1)

PLAIN = "plain"
# Name -> fields of the config.
METHODS: dict[str, dict[str, Any]] = {
    PLAIN: {"scheme": "resnet"},
    "CoML-05": {},
    "CoML-03": {"policy.full_probability": 0.3},
    "nested": {"objective.name": "nested"},
    "nested distilled": {"objective.name": "nested", "objective.distillation": 0.5},
    "expected": {"objective.name": "expected"},
    "expected distilled": {"objective.name": "expected", "objective.distillation": 0.5},
    "expected in 4 bits": {"objective.name": "expected", "train.bits": (4, 32)},
    "minimax": {"objective.name": "minimax"},
    "BlockCoML-05": {"scheme": "blockcoml"},
    "BlockCoML-03": {"scheme": "blockcoml", "policy.full_probability": 0.3},
    "BlockCoML-05 sandwich": {"scheme": "blockcoml", "objective.name": "sandwich"},
    "BlockCoML-05 sandwich distilled": {
        "scheme": "blockcoml",
        "objective.name": "sandwich",
        "objective.distillation": 0.5,
    },
}

_METHODS = flags.DEFINE_list("methods", list(METHODS), "Which, by name; the plain one is added.")

_STEPS = 10_000  # whose draws are counted


def representatives(draws: list[Draw], count: int) -> dict[Draw, float]:
    """Returns some of these draws, each with the share of all that it stands for.

    Args:
      draws: as they come.
      count: at most so many are chosen, evenly spaced by depth; each stands for the nearest.
    """
    by_depth = sorted(collections.Counter(draws).items(), key=lambda item: item[0].depth)
    last, count = len(by_depth) - 1, min(count, len(by_depth))
    chosen = [round(i * last / max(count - 1, 1)) for i in range(count)]
    shares = dict.fromkeys(chosen, 0.0)
    for index, (_, times) in enumerate(by_depth):
        shares[min(chosen, key=lambda other: abs(other - index))] += times / len(draws)
    return {by_depth[index][0]: share for index, share in shares.items()}


class Method:
    """A method in a process of its own."""

    def __init__(self, options: Options, fields: dict[str, Any], programs: int):
        """Makes the run; compiles nothing."""
        self._ours = Ours(options, fields)
        draws = self._ours.draws(_STEPS)
        self._first, self._count = draws[0], len(set(draws))
        self._shares = representatives(draws, programs)

    def first_step(self) -> float:
        """Returns the seconds until the first step is done: tracing, compiling, running."""
        return self._ours.compile([self._first]) + self._ours.train([self._first])

    def all_programs(self) -> tuple[int, float]:
        """Compiles what is timed; returns how many programs the run has, and about the seconds."""
        rest = [draw for draw in self._shares if draw != self._first]
        seconds = self._ours.compile(rest)
        return self._count, seconds / max(len(rest), 1) * self._count

    def temporary_mb(self) -> float:
        """Returns the most memory that a step takes beside its state, 10^6 bytes."""
        return max(map(self._ours.temporary_bytes, self._shares)) / 1e6

    def mean_step(self) -> float:
        """Returns the seconds of a mean step."""
        return sum(share * self._ours.train([draw]) for draw, share in self._shares.items())


def main() -> None:
    """Measures and prints."""
    options = asked()
    for name in _METHODS.value:
        if name not in METHODS:
            raise ValueError(f"--methods: {name!r} is none of {', '.join(map(repr, METHODS))}")
    methods = {name: METHODS[name] for name in dict.fromkeys([PLAIN, *_METHODS.value])}
    kind = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    title = f"{options}, a mean step of each method in turn, on {kind}"
    with contextlib.ExitStack() as stack, Report(title, JSON.value) as report:
        sides: dict[str, Any] = {}
        first: dict[str, float] = {}
        programs: dict[str, tuple[int, float]] = {}
        for name, fields in methods.items():  # one after the other: none compiles beside another
            side = stack.enter_context(Side(Method, options, fields, _PROGRAMS.value))
            first[name], programs[name] = side.first_step(), side.all_programs()
            sides[name] = side
        memory = {name: side.temporary_mb() for name, side in sides.items()}
        seconds: dict[str, Sample] = interleaved(
            {name: side.mean_step for name, side in sides.items()}, REPEATS.value
        )
        report.table(
            {"": "", "first step, s": ".1f", "programs": "d", "all compiled, s": ".0f"}
            | {"MB": ".0f", "MB / plain": ".2f", "seconds": ".3f", "time / plain": ".3f"}
        )
        for name, of in seconds.items():
            count, compiling = programs[name]
            report.row(
                *(name, first[name], count, compiling, memory[name], memory[name] / memory[PLAIN]),
                *(of.median, of.per(seconds[PLAIN])),
            )
        report.note(
            f"Medians of {REPEATS.value}. MB: the most that a step takes beside its state. All "
            "compiled: estimated from the programs that are timed, one a core at once."
        )


if __name__ == "__main__":
    run(main, batch_size=128)
