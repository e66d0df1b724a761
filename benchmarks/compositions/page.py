"""Writes the tables of docs/compositions.md anew, from the rows that are kept.

    python -m benchmarks.compositions.page [--out=results/compositions]

The folder is one that `benchmarks.compositions.table` has written. Only tables change: what the
page says of them does not follow by itself.

Time on two CPU cores: a second.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from accordion_jax.system.files import write_whole
from benchmarks.options import OUT, run

_ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = _ROOT / "docs" / "compositions.md"
KEPT = _ROOT / "results" / "compositions"

_MAIN = "what is sent"
# First cell of a table of precisions -> the family that it shows, and its row in the main table.
_PRECISIONS = {
    "bits": ("Accordion", "4-8 bits"),
    "bits, 70 % zeros": ("Accordion pruned-70", "4-8 bits"),
    "bits, 70 % zeros, rounded": ("Accordion pruned-70 rounded", "4-8 bits"),
    "bits, 78 % zeros, rounded, own heads": ("Accordion pruned-78 rounded own heads", "4-6 bits"),
}


def renewed(page: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page with the tables that these rows make.

    Args:
      page: Markdown; each table has its head already.
      rows: of the file that is kept.

    Raises:
      RuntimeError: a table is not there, or would be empty; names it by its first cell.
    """
    page = _with_table(page, _MAIN, _everything(rows))
    for first_cell, (family, _) in _PRECISIONS.items():
        found = [row for row in rows if row["family"] == family]
        page = _with_table(page, first_cell, map(_precision, found))
    return page


def _with_table(page: str, first_cell: str, lines: Iterable[Sequence[str]]) -> str:
    """The page with these lines below the head of the table that begins with this cell."""
    before, head, rest = page.partition(f"\n| {first_cell} | ")
    columns, rule, rest = (*rest.split("\n", 2), "", "")[:3]
    body = ["|".join(("", *(f" {cell} " if cell else " " for cell in line), "")) for line in lines]
    if not head or not body:
        lacks = "no rows for the" if head else f"{PAGE.name} has no"
        raise RuntimeError(f"{lacks} table that begins with {first_cell!r}")
    after = rest.partition("\n\n")[2]
    return "\n".join((f"{before}{head}{columns}", rule, *body)) + f"\n\n{after}"


def _everything(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Lines of the main table: all rivals, and of each Accordion one way to send it."""
    own = {f"{family} {bits}" for family, bits in _PRECISIONS.values()}
    for row in rows:
        if not row["rival"] and row["name"] not in own:
            continue
        for i, point in enumerate(row["points"]):
            name = row["name"] if i == 0 else ""
            yield name, _arrived(row, point), f"{point['bytes']:,}", _percent(point)


def _arrived(row: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    if len(row["points"]) == 1:
        return "all"
    what = point["what"].replace("1 blocks", "1 block")
    return what.replace("0 blocks", "base") if point.get("depth") == 0 else what


def _precision(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of a table of precisions: the error after each block, and that of the refined full."""
    points = row["points"]
    first = [point for point in points if point["bits"] == points[0]["bits"]]
    bits = dict.fromkeys(str(point["bits"]) for point in points)
    refined = points[len(first) :][-1:]
    return (
        ", then ".join(bits),
        *map(_percent, first),
        f"{first[-1]['bytes']:,}",
        *(map(_percent, refined) if refined else ("",)),
        *((f"{refined[0]['bytes']:,}",) if refined else ("",)),
    )


def _percent(point: Mapping[str, Any]) -> str:
    return f"{100 * point['error']:.2f}"


def main() -> None:
    """Writes the page."""
    kept = pathlib.Path(OUT.value or KEPT) / "compositions.json"
    try:
        rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(
            f"{kept} cannot be read ({error}); wanted what benchmarks.compositions.table wrote"
        ) from error
    write_whole(PAGE, renewed(PAGE.read_text(encoding="utf-8"), rows).encode())
    print(f"{PAGE}: the tables are those of {kept}")


if __name__ == "__main__":
    run(main)
