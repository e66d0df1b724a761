"""The bundle that comes with the project: whole, as its card says, and a model that runs."""

import pathlib
import re

import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path, verify_bundle
from accordion_jax.delivery.runtimes import make
from tests.commands import ROOT
from tests.data.test_cifar import REAL_DIR
from tests.delivery.servers import serving

PRETRAINED = ROOT / "pretrained"
CARD = (PRETRAINED / "README.md").read_text()
(BUNDLE,) = (each for each in PRETRAINED.iterdir() if each.is_dir())


@pytest.fixture(scope="module")
def manifest():
    return read_manifest(BUNDLE)


def answers(manifest, name, images):
    """Logits of a configuration, from the bytes of its segments, loaded as a device does."""
    network, configuration = make(manifest), manifest.configurations[name]
    loaded = {}
    for each in configuration.segments:
        segment = manifest.by_name[each]
        before = loaded.pop(segment.refines) if segment.refines else None
        content = segment_path(BUNDLE, segment.sha256).read_bytes()
        loaded[each] = network.load(each, content, before)
    run = network.compile(configuration, tuple(loaded.values()), 500)
    prepared = (network.task.prepare(images[i : i + 500]) for i in range(0, len(images), 500))
    return np.concatenate([run(batch) for batch in prepared])


def test_the_card_names_the_model_and_its_bytes(manifest):
    assert BUNDLE.name == manifest.model_id == verify_bundle(BUNDLE).model_id
    assert f"`{manifest.model_id}`" in CARD
    assert f"{len(manifest.segments)} segments, {manifest.size_bytes:,} bytes" in CARD
    files = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    assert files < 300_000, "it is in every clone"


def test_the_cards_table_is_the_manifests(manifest):
    rows = re.findall(r"^\| (coml-\S+) \| (\d) \| ([\d,]+) \| (\S+) % \|", CARD, re.MULTILINE)
    assert len(rows) >= 8
    for name, blocks, size_bytes, error in rows:
        row = manifest.rows[name]
        assert (row.depth, f"{row.size_bytes:,}") == (int(blocks), size_bytes)
        assert f"{row.top1_error:.1%}" == f"{error}%"
    assert manifest.table.rows[-1].examples == 10_000


def test_nothing_in_it_is_of_the_machine_that_made_it(manifest):
    assert not re.search(r'"[^"]*(/home/|/root|/tmp|/work)', manifest.to_bytes().decode())


def test_it_is_served_fetched_and_run_with_no_data_and_no_training(manifest, run_command, tmp_path):
    with serving(BUNDLE) as (url, _):
        images = np.zeros((2, 32, 32, 3), np.uint8)
        np.save(tmp_path / "images.npy", images)
        ended = run_command(
            "accordion_jax.fetch",
            *(url, f"--cache={tmp_path / 'cache'}", f"--predict={tmp_path / 'images.npy'}"),
        )
    assert ended.returncode == 0, ended.stderr
    best = min(manifest.table.rows, key=lambda row: row.top1_error)
    share = round(100 * best.size_bytes / manifest.size_bytes)
    assert f"in use       {best.configuration}: {best.depth} of 9 blocks, " in ended.stdout
    assert f" bits, {share} % of the bytes, " in ended.stdout
    assert f"predictions  2 by {best.configuration}" in ended.stdout
    assert best.depth == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coml-6.4", "coml-9.6"])
def test_its_error_on_the_real_test_images_is_what_it_says(manifest, name):
    if not list((pathlib.Path(REAL_DIR) / "cifar10").glob("*/dataset_info.json")):
        pytest.skip(f"cifar10 is not prepared in {REAL_DIR}")
    test = data.load("cifar10", "test", data_dir=REAL_DIR)
    wrong = answers(manifest, name, test.inputs).argmax(-1) != test.targets
    # Another processor rounds otherwise, and an answer may tip.
    assert wrong.sum() == pytest.approx(round(manifest.rows[name].top1_error * 10_000), abs=8)
