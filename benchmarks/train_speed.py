"""Our training step and sweep against a well-tuned PyTorch version of the same network and schemes.

    python -m benchmarks.train_speed --depth_n=9 --steps=10 --repeats=5

Same work on both sides: ResNet-(6n+2), SGD with momentum and weight decay, random crop and flip on
the device, random images. Each side has a process of its own, which waits while the other works;
repeats are interleaved, and a ratio is the median over the repeats of ours to PyTorch's in the same
repeat. PyTorch (2.13 was used) is not among this package's requirements: pip install torch.

Time on two CPU cores: three minutes for --depth_n=3 --steps=4, of which most is compiling; several
times that with --torch_compile. Use a machine that does nothing else: beside other work PyTorch's
threads, which wait for each other actively, lose far more than ours.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from accordion_jax.depth import draw, full_or_uniform, make_ladder
from benchmarks.machine import processor
from benchmarks.sizes import BATCH_SIZE, DEPTH_N, JSON, PRECISION, REPEATS, STEPS
from benchmarks.work import Options

_COMPILE = flags.DEFINE_enum(
    "torch_compile",
    "off",
    ["off", "default", "reduce-overhead", "max-autotune"],
    "Mode of torch.compile; try each, and report PyTorch's best.",
)
_EXAMPLES = flags.DEFINE_integer("sweep_examples", 1000, "Images of the sweep.", lower_bound=1)
_ONE_BY_ONE = flags.DEFINE_bool(
    "one_by_one", True, "Also time PyTorch's sweep as one pass a truncation (once)."
)

_side: Any = None  # of a worker process


def _start(kind: str, options: Options) -> None:
    """Makes this process one side of the benchmark."""
    global _side
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if kind == "ours":
        from benchmarks.ours import Ours as Side
    else:
        from benchmarks.torch_peer import Peer as Side  # type: ignore[assignment]
    _side = Side(options)


def _call(method: str, *args: Any) -> Any:
    return getattr(_side, method)(*args)


class Side:
    """One side of the benchmark, in a process of its own."""

    def __init__(self, kind: str, options: Options):
        self._pool = concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _start, (kind, options)
        )

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Calls a method of `Ours` or `Peer` there, and waits for its result."""

        def call(*args: Any) -> Any:
            result = self._pool.submit(_call, method, *args).result()
            time.sleep(0.3)  # until its threads no longer spin
            return result

        return call

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


@dataclasses.dataclass(frozen=True)
class Result:
    """Images a second of both sides, one entry a repeat."""

    work: str
    ours: tuple[float, ...]
    torch: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours to PyTorch's, of each repeat."""
        return [a / b for a, b in zip(self.ours, self.torch, strict=True)]


def compare(
    work: str,
    images: int,
    ours: Callable[[], float],
    torch: Callable[[], float],
    repeats: int,
) -> Result:
    """Returns the images a second of both sides, measured in turn.

    Args:
      work: name.
      images: that one call works on.
      ours: does the work once; returns the seconds.
      torch: likewise.
      repeats: measurements a side; who begins alternates.
    """
    rates: dict[Callable, list[float]] = {ours: [], torch: []}
    for repeat in range(repeats):
        for side in (ours, torch) if repeat % 2 else (torch, ours):
            rates[side].append(images / side())
    return Result(work, tuple(rates[ours]), tuple(rates[torch]))


def measure(options: Options, steps: int, repeats: int, one_by_one: bool) -> dict[str, Any]:
    """Returns all results as JSON-able values."""
    ladder = make_ladder("coml", options.stage_sizes)
    policy = full_or_uniform(ladder, 0.5)
    full, half = options.blocks, options.blocks // 2
    drawn = [ladder[draw(policy, seed=0, step=step)].depth for step in range(steps)]
    works: list[tuple[str, Sequence[int]]] = [
        (f"training, all {full} blocks", [full] * steps),
        (f"training, {half} blocks", [half] * steps),
        ("training, depths drawn as in CoML-05", drawn),
    ]
    ours, torch = Side("ours", options), Side("torch", options)
    try:
        once = {"time to the first full step, s": (ours.train([full]), torch.train([full]))}
        depths = sorted({*drawn, half} - {full})
        once[f"compiling {len(depths)} more depths, s"] = (
            ours.compile(depths),
            torch.train(depths),
        )
        results = []
        for work, sequence in works:
            for side in (ours, torch):
                side.train(sorted(set(sequence)))  # warm
            results.append(
                compare(
                    work,
                    steps * options.batch_size,
                    lambda s=sequence: ours.train(s),  # type: ignore[misc]
                    lambda s=sequence: torch.train(s),  # type: ignore[misc]
                    repeats,
                )
            )
        once["peak memory after training, MB"] = tuple(
            side.peak_bytes() / 1e6 for side in (ours, torch)
        )
        once["first sweep, s"] = (ours.sweep(), torch.sweep())
        results.append(
            compare(
                f"sweep of {full + 1} truncations in one pass",
                options.sweep_examples,
                ours.sweep,
                torch.sweep,
                repeats,
            )
        )
        if one_by_one:
            seconds = torch.sweep(False)
            best = statistics.median(results[-1].ours)
            once["the same sweep, PyTorch one truncation after the other, s"] = (
                options.sweep_examples / best,
                seconds,
            )
        facts = ours.facts() | torch.facts()
    finally:
        ours.close()
        torch.close()
    return {
        "options": dataclasses.asdict(options) | {"steps": steps, "repeats": repeats},
        "facts": facts | {"machine": processor()},
        "rates": [
            {
                "work": each.work,
                "ours": each.ours,
                "torch": each.torch,
                "ratio": statistics.median(each.ratios),
                "ratio_least": min(each.ratios),
                "ratio_most": max(each.ratios),
            }
            for each in results
        ],
        "once": {name: {"ours": a, "torch": b} for name, (a, b) in once.items()},
    }


def as_markdown(document: dict[str, Any]) -> str:
    """Returns the results as tables."""
    options = document["options"]
    lines = [
        f"ResNet-{6 * options['depth_n'] + 2}, batch {options['batch_size']}, "
        f"{options['precision']}, torch.compile {options['torch_compile']}; median of "
        f"{options['repeats']} interleaved repeats of {options['steps']} steps (least to most).",
        "",
        "| images a second | ours | PyTorch | ours / PyTorch |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in document["rates"]:
        ours, torch = (statistics.median(row[side]) for side in ("ours", "torch"))
        lines.append(
            f"| {row['work']} | {ours:.0f} | {torch:.0f} | {row['ratio']:.2f} "
            f"({row['ratio_least']:.2f} to {row['ratio_most']:.2f}) |"
        )
    lines += ["", "| measured once | ours | PyTorch |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {row['ours']:.1f} | {row['torch']:.1f} |"
        for name, row in document["once"].items()
    ]
    facts = ", ".join(f"{name} {value}" for name, value in document["facts"].items())
    return "\n".join([*lines, "", facts])


def main(argv: list[str]) -> None:
    """Measures, and prints the tables."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    try:
        import torch  # noqa: F401
    except ImportError:
        print("error: PyTorch is not installed; pip install torch", file=sys.stderr)
        sys.exit(1)
    options = Options(
        depth_n=DEPTH_N.value,
        batch_size=BATCH_SIZE.value,
        precision=PRECISION.value,
        torch_compile=_COMPILE.value,
        examples=max(10 * BATCH_SIZE.value, _EXAMPLES.value, 10_000),
        sweep_examples=_EXAMPLES.value,
    )
    document = measure(options, STEPS.value, REPEATS.value, _ONE_BY_ONE.value)
    print(as_markdown(document))
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    flags.set_default(STEPS, 10)
    app.run(main)
