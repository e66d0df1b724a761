"""Draws several runs on one picture, and prints what each reaches for how many bytes.

    python -m accordion_jax.report runs/resnet56_* --out=figure.png

Runs that differ only in seed become one curve, their mean and standard deviation. With --reference,
a run's label, the last table says how far each is behind that one at its full depth. A bundle's
folder may take the place of a run: its curve is that of what arrives in the default order, and
tables of kilobytes, blocks and bits a weight are added.
"""

import pathlib
import statistics
from collections.abc import Callable, Sequence

from absl import app, flags

from accordion_jax import evaluation
from accordion_jax.delivery.bundle.reading import MANIFEST_NAME, read_manifest
from accordion_jax.depth import LookupTable
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
_REFERENCE = flags.DEFINE_string(
    "reference", "", "Label of the runs that the others' full depth is compared with."
)

Groups = dict[str, list[LookupTable]]
# Of a look-up table and a column: what its cell shows; None where it has none.
Cell = Callable[[LookupTable, str], float | None]


def _spread(values: Sequence[float | None], unit: str) -> str:
    """Mean, and standard deviation where there are several; a dash where one is missing."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return "-"
    mean = f"{round(statistics.fmean(numbers), 2) + 0.0:.2f}{unit}"  # no -0.00
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.2f}"


def _table(title: str, columns: Sequence[str], groups: Groups, cell: Cell, unit: str = " %") -> str:
    """A Markdown table with a row a curve."""
    lines = [
        f"| {title} | seeds | " + " | ".join(columns) + " |",
        "| --- " * (len(columns) + 2) + "|",
    ]
    for label, tables in groups.items():
        cells = [_spread([cell(table, column) for table in tables], unit) for column in columns]
        lines.append(f"| {label} | {len(tables)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _at_a_share(table: LookupTable, column: str) -> float | None:
    row = table.at_share_of_bytes(_share(column))
    return None if row is None else 100 * row.top1_error


def _bytes_for(table: LookupTable, column: str) -> float | None:
    row = table.smallest_reaching(_share(column))
    return None if row is None else 100 * row.share_of_bytes


def _macs_for(table: LookupTable, column: str) -> float | None:
    row = table.smallest_reaching(_share(column))
    return None if row is None else row.macs / 1e6


def _kilobytes_for(table: LookupTable, column: str) -> float | None:
    row = table.smallest_reaching(_share(column))
    return None if row is None else row.size_bytes / 1e3


def _blocks_for(table: LookupTable, column: str) -> float | None:
    row = table.smallest_reaching(_share(column))
    return None if row is None else row.depth


def _bits_for(table: LookupTable, column: str) -> float | None:
    row = table.smallest_reaching(_share(column))
    return None if row is None else row.bits


def _read(path: str) -> LookupTable:
    """The table of a run, or of what a bundle sends in its default order."""
    folder = pathlib.Path(path)
    if not (folder / MANIFEST_NAME).is_file():
        return _as_trained(LookupTable.read(folder))
    manifest = read_manifest(folder)
    facts = dict(manifest.provenance)
    bits = " and ".join(map(str, facts.get("bits", [32])))
    facts["name"] = f"{facts.get('name', 'bundle')} in {bits} bits"
    return LookupTable(tuple(manifest.rows[each.name] for each in manifest.path_at_best), facts)


def _as_trained(table: LookupTable) -> LookupTable:
    """The table without rows of depths that training never saw, where it saw only one."""
    facts = table.provenance
    if facts.get("policy", {}).get("name") != "only":
        return table
    depth = facts["config"]["policy"]["depth"]
    rows = tuple(row for row in table.rows if row.depth == depth)
    return LookupTable(rows, facts) if rows else table


def _share(column: str) -> float:
    return float(column.removesuffix(" %")) / 100


def _behind(groups: Groups, reference: str) -> str:
    """How far the full depth of each is behind the mean of the reference's."""
    if reference not in groups:
        raise ValueError(f"--reference={reference!r} is none of {', '.join(map(repr, groups))}")
    wanted = statistics.fmean(table.full.top1_error for table in groups[reference])
    columns = ("error", f"behind {reference}")

    def cell(table: LookupTable, column: str) -> float | None:
        error = table.full.top1_error
        return 100 * (error if column == "error" else error - wanted)

    return _table("at the largest depth", columns, groups, cell)


def main(argv: list[str]) -> None:
    """Draws and prints."""
    if len(argv) < 2:
        raise app.UsageError(
            "name at least one run: its folder, or its lookup_table.json; or the folder of a bundle"
        )
    for flag in (_SHARES, _ERRORS):
        for value in flag.value:
            if not value.replace(".", "", 1).isdigit() or not 0 < float(value) <= 100:
                raise app.UsageError(f"--{flag.name}: {value!r} is not a per cent in (0, 100]")
    tables = [_read(path) for path in argv[1:]]
    encoded = any(row.bits < 32 for table in tables for row in table.rows)
    error_name = evaluation.error_name(tables)
    article = "an" if error_name[:1] in "aeiou" else "a"
    by_label = evaluation.group_seeds(tables)
    title, labels = evaluation.without_common(list(by_label))
    groups = dict(zip(labels, by_label.values(), strict=True))
    behind = [_behind(groups, _REFERENCE.value)] if _REFERENCE.value else []
    curves = [evaluation.average_seeds(label, each, _BITS.value) for label, each in groups.items()]
    axis = f"{_BITS.value} bits a parameter" if _BITS.value else "as sent" if encoded else "float32"
    picture = evaluation.draw_error_vs_size(
        curves, _OUT.value, title=title, axis=axis, error_name=error_name
    )
    shares, errors = ([f"{each} %" for each in flag.value] for flag in (_SHARES, _ERRORS))
    parts = [
        _table(f"{error_name} at a share of the bytes", shares, groups, _at_a_share),
        _table(f"least share of the bytes for {article} {error_name}", errors, groups, _bytes_for),
        _table(
            f"10^6 multiply-accumulates for {article} {error_name}", errors, groups, _macs_for, ""
        ),
        *behind,
    ]
    if encoded:
        parts += [
            _table(f"kilobytes for {article} {error_name}", errors, groups, _kilobytes_for, ""),
            _table(f"blocks for {article} {error_name}", errors, groups, _blocks_for, ""),
            _table(f"bits a weight for {article} {error_name}", errors, groups, _bits_for, ""),
        ]
    print("\n\n".join(parts))
    print(f"\n  {picture}")


def run(argv: list[str] | None = None) -> None:
    """Runs the command."""
    command.run(main, argv=argv)


if __name__ == "__main__":
    run()
