"""How long compiling takes: block after block or with scanned stages, cold or from the cache.

    python -m benchmarks.compile_time --depth_n=18

Prints three tables for the training step of ResNet-(6n+2), unrolled and with
``run.scan_stages=True``: what the step's program of a few depths takes to trace, lower and compile,
and its size; the time from the start of a process to the end of its first step, with an empty and
with a filled persistent cache, and of the steps after it (what scanning costs while it trains); and
the time for many variants with several compilations at once.

Each figure comes from a fresh process, since JAX keeps what it has traced and compiled; "cold" is
an empty folder for the persistent cache, "warm" the folder that the cold process has left. Where
"Python" (tracing and lowering, under the interpreter's lock) is most of the wall time, more
compilations at once do not help.

Time on two CPU cores: three minutes for --depth_n=3 --variants=4 --workers=1,2 --steps=3. All
54 variants of a ResNet-110, cold, once for each of --workers, take far longer there: --variants=6.
"""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import tqdm
from absl import app, flags

from benchmarks import compile_work
from benchmarks.compile_work import in_fresh_process, spread
from benchmarks.machine import machine
from benchmarks.sizes import BATCH_SIZE, DEPTH_N, DEPTHS, JSON, PRECISION, STEPS, WAYS
from benchmarks.work import Options

_VARIANTS = flags.DEFINE_integer("variants", 0, "Of the last table, evenly spaced; 0: all.", 0)
_WORKERS = flags.DEFINE_list("workers", ["1", "2", "4"], "Compilations at once; several figures.")


def evenly_spaced(blocks: int, count: int) -> tuple[int, ...]:
    """Returns so many depths from 1 to all blocks, the full depth last; all where count is 0."""
    count = min(count or blocks, blocks)
    return tuple(sorted({max(1, round(blocks * i / count)) for i in range(1, count + 1)}))


def measure(
    options: Options,
    *,
    depths: tuple[int, ...],
    variants: tuple[int, ...],
    workers: tuple[int, ...],
    steps: int,
    ways: tuple[str, ...] = ("unrolled", "scanned"),
) -> dict[str, Any]:
    """Returns all results as JSON-able values.

    Args:
      options: the size of the work.
      depths: whose step is compiled alone, without a cache.
      variants: depths that are compiled together.
      workers: numbers of compilations at once.
      steps: to time after the first.
      ways: "unrolled" and "scanned", or one of them.
    """
    results: dict[str, Any] = {"depths": [], "starts": [], "variants": []}
    total = len(ways) * (len(depths) + 2 + 2 * len(workers))
    bar = tqdm.tqdm(total=total, unit="process", disable=None)
    with tempfile.TemporaryDirectory(prefix="accordion-compile-time-") as folder:

        def run(table: str, function: Any, *args: Any, **labels: Any) -> None:
            bar.set_postfix(labels)
            results[table].append(labels | in_fresh_process(function, options, *args))
            bar.update()

        for way in ways:
            scan = way == "scanned"
            for depth in depths:
                run("depths", compile_work.one_depth, scan, depth, way=way, depth=depth)
            for cache in ("cold", "warm"):
                later = steps if cache == "warm" else 0
                args = scan, f"{folder}/{way}", later
                run("starts", compile_work.first_step, *args, way=way, cache=cache)
            for count in workers:
                for cache in ("cold", "warm"):
                    many = scan, f"{folder}/{way}{count}", variants, count
                    labels = {"way": way, "cache": cache, "workers": count}
                    run("variants", compile_work.many_variants, *many, **labels)
    bar.close()
    facts = results["starts"][0]["facts"]
    for start in results["starts"]:
        del start["facts"]
    return {
        "options": dataclasses.asdict(options) | {"variants": variants, "ways": ways},
        "facts": facts,
        **results,
    }


def as_markdown(document: dict[str, Any]) -> str:
    """Returns the results as tables."""
    lines = [
        "| the step's program | blocks | trace, s | lower, s | compile, s | StableHLO lines "
        "| HLO instructions |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['way']} | {row['depth']} | {row['trace']:.2f} | {row['lower']:.2f} "
        f"| {row['compile']:.2f} | {row['stablehlo_lines']} | {row['hlo_instructions']} |"
        for row in document["depths"]
    ]
    lines += [
        "",
        "| full depth | cache | set-up, s | Python, s | compile, s | start to first step done, s "
        "| later steps, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['way']} | {row['cache']} | {row['setup_s']:.1f} "
        f"| {row['trace'] + row['lower']:.2f} | {row['compile']:.2f} | {row['first_step_s']:.1f} "
        f"| {spread(row['steps_s']) if row['steps_s'] else ''} |"
        for row in document["starts"]
    ]
    count = len(document["options"]["variants"])
    lines += [
        "",
        f"| {count} variants | cache | at once | wall, s | Python, CPU s | its share "
        "| compile, s summed | found in the cache |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['way']} | {row['cache']} | {row['workers']} | {row['wall_s']:.1f} "
        f"| {row['python_cpu']:.1f} | {row['python_cpu'] / row['wall_s']:.0%} "
        f"| {row['compile']:.1f} | {row['hits']} |"
        for row in document["variants"]
    ]
    starts = {(row["way"], row["cache"]): row["first_step_s"] for row in document["starts"]}
    lines.append("")
    lines += [
        f"From process start to the first step done, {way}: {starts[way, 'cold']:.1f} s cold, "
        f"{starts[way, 'warm']:.1f} s warm."
        for way in document["options"]["ways"]
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    options = Options(
        DEPTH_N.value,
        BATCH_SIZE.value,
        PRECISION.value,
        examples=max(4 * BATCH_SIZE.value, 1000),
    )
    hardware = machine("jax", "jaxlib", "flax")  # with the load before
    document = measure(
        options,
        depths=evenly_spaced(options.blocks, DEPTHS.value),
        variants=evenly_spaced(options.blocks, _VARIANTS.value),
        workers=tuple(map(int, _WORKERS.value)),
        steps=STEPS.value,
        ways=tuple(WAYS.value),
    )
    print(f"ResNet-{6 * options.depth_n + 2}, batch {options.batch_size}, {options.precision}")
    print(f"{document['facts']['devices']}; {hardware}\n")
    print(as_markdown(document))
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    flags.set_default(DEPTH_N, 18)
    flags.set_default(DEPTHS, 3)
    flags.set_default(STEPS, 10)
    app.run(main)
