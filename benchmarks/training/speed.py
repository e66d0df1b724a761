"""Our training step and sweep against a well-tuned PyTorch version of the same network and schemes.

    python -m benchmarks.training.speed --depth_n=9 --steps=10 --repeats=5

Same work on both sides: ResNet-(6n+2), SGD with momentum and weight decay, random crop and flip on
the device, random images. Each side has a process of its own, which waits while the other works;
repeats are taken in turn, and a ratio is the median over the repeats of ours to PyTorch's beside
it. PyTorch (2.13 was used) is not among this package's requirements: pip install torch.

Time on two CPU cores: three minutes for --depth_n=3 --steps=4, of which most is compiling; several
times that with --torch_compile. Use a machine that does nothing else: beside other work PyTorch's
threads, which wait for each other actively, lose far more than ours.
"""

import functools
import importlib.util
import pkgutil
from collections.abc import Callable, Collection
from typing import Any

from absl import flags

from accordion_jax.system.command import CommandError
from benchmarks.options import JSON, REPEATS, STEPS, asked, run
from benchmarks.report import Report
from benchmarks.sides import Side
from benchmarks.timing import interleaved
from benchmarks.work import Options

_COMPILE = flags.DEFINE_enum(
    "torch_compile",
    "off",
    ["off", "default", "reduce-overhead", "max-autotune"],
    "Mode of torch.compile; try each, and report PyTorch's best.",
)
WORK = ("full", "half", "drawn", "sweep")
_WORK = flags.DEFINE_multi_enum(
    "work",
    WORK,
    WORK,
    "What to measure; repeat it for several. Each depth is a program to compile.",
)

Run = Callable[[], float]


def make(name: str, options: Options) -> Any:
    """Returns a side, imported here, so that neither process holds the other's library."""
    return pkgutil.resolve_name(name)(options)


def compare(
    options: Options, steps: int, repeats: int, report: Report, work: Collection[str] = WORK
) -> None:
    """Measures so many repeats of so many steps of both sides, and reports."""
    peer = "benchmarks.training.torch_peer:Peer"
    with Side(make, "benchmarks.ours:Ours", options) as a, Side(make, peer, options) as b:
        report.note(f"ours on {a.hardware()}; PyTorch on {b.hardware()}")
        full, half = options.full, options.mask(options.blocks // 2)
        masks = {
            "full": (f"training, all {options.blocks} blocks", [full] * steps),
            "half": (f"training, {options.blocks // 2} blocks", [half] * steps),
            "drawn": ("training, depths drawn as in CoML-05", a.drawn(steps)),
        }
        wanted = [masks[name] for name in WORK if name in masks and name in work]
        more = sorted({mask for _, each in wanted for mask in each} - {full})
        first = a.train([full]), b.train([full])
        compiling = a.compile(more), b.train(more)

        report.table({"images a second": "", "ours": ".0f", "PyTorch": ".0f", "ratio": ".2f"})

        def both(name: str, images: int, ours: Run, theirs: Run) -> None:
            found = interleaved({"ours": ours, "theirs": theirs}, repeats).values()
            mine, other = (seconds.rate(images) for seconds in found)
            report.row(name, mine.median, other.median, mine.per(other))

        for name, each in wanted:
            runs = (functools.partial(side.train, each) for side in (a, b))
            both(name, steps * options.batch_size, *runs)
        peak = a.peak_bytes() / 1e6, b.peak_bytes() / 1e6
        if "sweep" in work:
            name = f"sweep of {options.blocks + 1} truncations in one pass"
            both(name, options.sweep_examples, a.sweep, b.sweep)

    report.table({"measured once": "", "ours": ".1f", "PyTorch": ".1f"})
    report.row("time to the first full step, s", *first)
    report.row(f"compiling {len(more)} more depths, s", *compiling)
    report.row("peak memory after training, MB", *peak)


def main() -> None:
    """Measures and prints."""
    if importlib.util.find_spec("torch") is None:
        raise CommandError("PyTorch is not installed; pip install torch")
    options = asked(10_000, torch_compile=_COMPILE.value)
    title = f"{options}, torch.compile {_COMPILE.value}; {STEPS.value} steps, ratio of pairs"
    with Report(title, JSON.value) as report:
        compare(options, STEPS.value, REPEATS.value, report, _WORK.value)


if __name__ == "__main__":
    run(main, steps=10)
