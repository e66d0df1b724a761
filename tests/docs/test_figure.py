"""The page of the figure shows what the kept results say, and nothing else."""

import json
import pathlib
import re

import pytest

from accordion_jax.depth import LookupTable
from tests.commands import ROOT, call_main

RESULTS = ROOT / "results" / "figure"
PAGE = ROOT / "docs" / "figure.md"


def runs(network: str) -> list[pathlib.Path]:
    return sorted(RESULTS.glob(f"figure_{network}_*"))


def test_the_tables_are_those_that_the_command_prints(capsys, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    command = "python -m accordion_jax.report results/figure/figure_resnet20_*/ "
    assert f"{command}--out=docs/figure.png --reference=resnet" in page
    call_main("report", *runs("resnet20"), f"--out={tmp_path / 'f.png'}", "--reference=resnet")
    *tables, _ = capsys.readouterr().out.split("\n\n")
    assert len(tables) == 4
    for table in tables:
        assert table.strip() in page


@pytest.mark.parametrize("folder", runs("resnet20"), ids=lambda path: path.name)
def test_a_kept_run_says_how_it_was_made(folder):
    table = LookupTable.read(folder)
    facts = table.provenance
    assert (facts["dataset"], facts["split"]) == ("cifar10", "test")
    assert facts["step"] == facts["total_steps"]
    assert {row.examples for row in table.rows} == {10_000}
    (first, *_) = json.loads((folder / "sessions.json").read_text())["sessions"]
    assert first
    # Nothing that names the machine's folders goes with the results.
    text = "".join(path.read_text() for path in folder.iterdir())
    assert not re.search(r'"/(work|home|root|tmp)', text)
