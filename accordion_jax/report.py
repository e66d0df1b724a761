"""Draws several runs on one picture, and prints their errors at shares of the bytes.

    python -m accordion_jax.report runs/resnet56_* --out=figure.png

Runs that differ only in seed become one curve, their mean and standard deviation.
"""

import pathlib
import statistics
from collections.abc import Callable, Sequence

from absl import app, flags

from accordion_jax import evaluation
from accordion_jax.depth import LookupTable, Row
from accordion_jax.system import command

_OUT = flags.DEFINE_string("out", "report.png", "The picture; its ending gives the format.")
_SHARES = flags.DEFINE_list(
    "shares", ["10", "25", "50", "75", "100"], "Per cent of the full model's bytes."
)
_ERRORS = flags.DEFINE_list(
    "errors",
    ["10", "20", "30", "40", "50"],
    "Per cent of error for which to print the smallest share of bytes that reaches it.",
)
_BITS = flags.DEFINE_integer(
    "bits_per_parameter", 0, "Of the picture's axis; 0 is the true bytes. The paper counts 64."
)


def _spread(values: Sequence[float | None]) -> str:
    """Mean, and standard deviation where there are several; a dash where one is missing."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return "-"
    mean = f"{100 * statistics.fmean(numbers):.2f} %"
    return mean if len(numbers) == 1 else f"{mean} ± {100 * statistics.stdev(numbers):.2f}"


def _table(
    title: str,
    columns: Sequence[str],
    groups: dict[str, list[LookupTable]],
    cell: Callable[[LookupTable, float], float | None],
) -> str:
    """A Markdown table with a row a curve."""
    lines = [
        f"| {title} | seeds | " + " | ".join(f"{column} %" for column in columns) + " |",
        "| --- " * (len(columns) + 2) + "|",
    ]
    for label, tables in groups.items():
        cells = [_spread([cell(t, float(column) / 100) for t in tables]) for column in columns]
        lines.append(f"| {label} | {len(tables)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _error(row: Row | None) -> float | None:
    return None if row is None else row.top1_error


def _share(row: Row | None) -> float | None:
    return None if row is None else row.share_of_bytes


def main(argv: list[str]) -> None:
    """Draws and prints."""
    if len(argv) < 2:
        raise app.UsageError("name at least one run: its folder, or its lookup_table.json")
    for flag in (_SHARES, _ERRORS):
        for value in flag.value:
            if not value.replace(".", "", 1).isdigit() or not 0 < float(value) <= 100:
                raise app.UsageError(f"--{flag.name}: {value!r} is not a per cent in (0, 100]")
    tables = [LookupTable.read(pathlib.Path(path)) for path in argv[1:]]
    error_name = evaluation.error_name(tables)
    article = "an" if error_name[:1] in "aeiou" else "a"
    groups = evaluation.group_seeds(tables)
    curves = [evaluation.average_seeds(label, each, _BITS.value) for label, each in groups.items()]
    axis = f"{_BITS.value} bits a parameter" if _BITS.value else "float32"
    picture = evaluation.draw_error_vs_size(curves, _OUT.value, axis=axis, error_name=error_name)
    print(
        _table(
            f"{error_name} at a share of the bytes",
            _SHARES.value,
            groups,
            lambda table, share: _error(table.at_share_of_bytes(share)),
        )
    )
    print()
    print(
        _table(
            f"least share of the bytes for {article} {error_name}",
            _ERRORS.value,
            groups,
            lambda table, error: _share(table.smallest_reaching(error)),
        )
    )
    print(f"\n  {picture}")


def run(argv: list[str] | None = None) -> None:
    """Runs the command."""
    command.run(main, argv=argv)


if __name__ == "__main__":
    run()
