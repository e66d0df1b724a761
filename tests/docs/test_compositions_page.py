"""The page of the compositions shows what the kept file says, and nothing else."""

import json

from tests.commands import ROOT

PAGE = (ROOT / "docs" / "compositions.md").read_text(encoding="utf-8")
KEPT = json.loads((ROOT / "results" / "compositions" / "compositions.json").read_text())


def shown():
    """Rows of the main table: (what is sent, what has arrived, bytes, error)."""
    part = PAGE.partition("\n## The table\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    assert lines[0] == "| what is sent | what has arrived | bytes | error, % |"
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


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
        for i, point in enumerate(row["points"])
    ]
    assert shown() == wanted


def test_the_page_says_what_the_file_was_measured_on():
    assert (KEPT["dataset"], KEPT["examples"]) == ("cifar10", 10_000)
    assert "ResNet-20 on CIFAR-10" in PAGE
    assert "the errors are of all 10,000 test images" in PAGE
