"""The page of the compositions shows what the kept file says, and nothing else."""

import json

import pytest

from accordion_jax.delivery.bundle.reading import verify_bundle
from benchmarks.compositions import page
from tests.commands import ROOT

PAGE = page.PAGE.read_text(encoding="utf-8")
KEPT = json.loads((page.KEPT / "compositions.json").read_text(encoding="utf-8"))


def test_the_tables_are_the_kept_ones():
    assert page.renewed(PAGE, KEPT["rows"]) == PAGE
    first, second = KEPT["rows"][0], KEPT["rows"][1]
    (old, new) = (f"{first['points'][0]['bytes']:,}", "1,234,567")
    assert f"| {first['name']} | all | {old} |" in PAGE
    changed = [first | {"points": [first["points"][0] | {"bytes": 1_234_567}]}, *KEPT["rows"][1:]]
    assert f"| {first['name']} | all | {new} |" in page.renewed(PAGE, changed)
    assert f"| {second['name']} |" in page.renewed(PAGE, changed)


def test_a_family_without_rows_or_a_table_that_is_gone_is_named():
    rivals = [row for row in KEPT["rows"] if row["rival"]]
    with pytest.raises(RuntimeError, match="no rows for the table that begins with 'bits'"):
        page.renewed(PAGE, rivals)
    with pytest.raises(RuntimeError, match="has no table that begins with 'what is sent'"):
        page.renewed("nothing", KEPT["rows"])


def test_the_page_says_what_the_file_was_measured_on():
    assert (KEPT["dataset"], KEPT["examples"]) == ("cifar10", 10_000)
    assert "ResNet-20 on CIFAR-10" in PAGE
    assert "the errors are of all 10,000 test images" in PAGE


@pytest.mark.parametrize(
    ("which", "name"), [("elastic", "Accordion 4-8 bits"), ("plain", "plain in PyTorch 8 bits")]
)
def test_kept_bundles_are_whole_and_what_their_cards_say(which, name):
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
    (row,) = (row for row in KEPT["rows"] if row["name"] == name)
    sent = row["points"][-1]
    assert sent["error"] == pytest.approx(full.top1_error)
    assert sent["bytes"] == pytest.approx(manifest.size_bytes, rel=0.01)
