"""The page of the compositions shows what the kept file says, and nothing else."""

import json

import pytest

from accordion_jax.delivery.bundle.reading import verify_bundle
from tests.commands import ROOT

PAGE = (ROOT / "docs" / "compositions.md").read_text(encoding="utf-8")
MAIN = (
    "Accordion 4-8 bits",
    "Accordion pruned-70 4-8 bits",
    "Accordion pruned-70 rounded 4-8 bits",
    "Accordion pruned-70 rounded own heads 4-6 bits",
    "Accordion pruned-75 rounded own heads 4-6 bits",
)
KEPT = json.loads((ROOT / "results" / "compositions" / "compositions.json").read_text())


def table_of(first_cell):
    """Rows of the page's table whose head begins with this cell."""
    lines = PAGE.partition(f"\n| {first_cell} | ")[2].partition("\n\n")[0].splitlines()
    return [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in lines[2:]]


def arrived(row, point):
    """What the page calls a point of a row."""
    if len(row["points"]) == 1:
        return "all"
    what = point["what"].replace("1 blocks", "1 block")
    return what.replace("0 blocks", "base") if point.get("depth") == 0 else what


def test_the_main_table_is_the_kept_one():
    wanted = [
        (
            row["name"] if i == 0 else "",
            arrived(row, point),
            f"{point['bytes']:,}",
            f"{100 * point['error']:.2f}",
        )
        for row in KEPT["rows"]
        if row["rival"] or row["name"] in MAIN
        for i, point in enumerate(row["points"])
    ]
    assert len(wanted) > 15
    assert table_of("what is sent") == wanted


@pytest.mark.parametrize(
    ("which", "first_cell", "count"),
    [
        ("Accordion", "bits", 9),
        ("Accordion pruned-70", "bits, 70 % zeros", 4),
        ("Accordion pruned-70 rounded", "bits, 70 % zeros, rounded", 7),
        ("Accordion pruned-70 rounded own heads", "bits, 70 % zeros, rounded, own heads", 4),
        ("Accordion pruned-75 rounded own heads", "bits, 75 % zeros, rounded, own heads", 7),
    ],
)
def test_the_tables_of_precisions_are_the_kept_one(which, first_cell, count):
    wanted = []
    for row in KEPT["rows"]:
        if row["family"] != which:
            continue
        *bits, last = row["name"].removeprefix(f"{which} ").removesuffix(" bits").split("-")
        points = row["points"]
        first = [point for point in points if point["bits"] == points[0]["bits"]]
        refined = points[-1] if bits else None
        wanted.append(
            (
                f"{bits[0]}, then {last}" if bits else last,
                *(f"{100 * point['error']:.2f}" for point in first),
                f"{first[-1]['bytes']:,}",
                f"{100 * refined['error']:.2f}" if refined else "",
                f"{refined['bytes']:,}" if refined else "",
            )
        )
    assert len(wanted) == count
    assert table_of(first_cell) == wanted


def test_the_page_says_what_the_file_was_measured_on():
    assert (KEPT["dataset"], KEPT["examples"]) == ("cifar10", 10_000)
    assert "ResNet-20 on CIFAR-10" in PAGE
    assert "the errors are of all 10,000 test images" in PAGE


@pytest.mark.parametrize("which", ["elastic", "own_heads"])
def test_kept_bundles_are_whole_and_what_their_cards_say(which):
    folder = ROOT / "results" / "compositions" / which
    (bundle,) = (each for each in folder.iterdir() if each.is_dir())
    manifest = verify_bundle(bundle)
    assert bundle.name == manifest.model_id
    card = (folder / "README.md").read_text()
    assert f"{manifest.size_bytes:,} bytes" in card
    full = manifest.table.rows[-1]
    assert f"{100 * full.top1_error:.1f} %" in card
    assert f"results/compositions/{which}/README.md" in PAGE
    # The kept rows are of the same network: its full depth in all bits.
    sent = {point["bytes"]: point["error"] for row in KEPT["rows"] for point in row["points"]}
    assert sent[manifest.size_bytes] == pytest.approx(full.top1_error)
