"""The table: what is measured once is kept, rows say what arrived, and early exits are of a run."""

import json
import types

import jax
import numpy as np
import pytest

from accordion_jax import data, tasks
from accordion_jax.delivery.links.methods_file import read_rivals, read_rungs
from accordion_jax.depth import make_ladder
from benchmarks.compositions import pictures, rows
from benchmarks.compositions.early_exit import best_of
from benchmarks.compositions.fitting import Judge
from benchmarks.compositions.measuring import Measured
from benchmarks.compositions.table import (
    added_to,
    exits,
    kept_before,
    markdown,
    measure,
    measure_depths,
)
from tests.networks import IMAGE_SHAPE, perturbed_variables, tiny_resnet

MODEL = tiny_resnet()
LADDER = make_ladder("coml", MODEL.stage_sizes)
VARIABLES = jax.tree.map(np.asarray, perturbed_variables(MODEL))


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *IMAGE_SHAPE), np.uint8)
    task = tasks.Images(IMAGE_SHAPE, (0.5,) * 2, (0.25,) * 2)
    return data.Dataset("random", task, images, rng.integers(0, 10, 60, np.int32), 10)


@pytest.fixture
def judge(dataset):
    return Judge(dataset, dataset.task, batch_size=25)


@pytest.fixture
def measured(judge, tmp_path):
    return Measured(judge, tmp_path / "measured.json")


def test_a_network_is_measured_once(measured, monkeypatch, tmp_path, judge):
    masks = LADDER.skip_masks
    (error,) = measured(MODEL, VARIABLES)
    errors = measured(MODEL, VARIABLES, masks)
    assert error == judge(MODEL, VARIABLES) / judge.examples
    assert errors[-1] == error
    again = Measured(judge, tmp_path / "measured.json")
    monkeypatch.setattr(judge, "outputs", None)  # nobody answers any more
    assert again(MODEL, VARIABLES) == [error]
    assert again(MODEL, VARIABLES, masks) == errors
    other = jax.tree.map(lambda x: x + 1, VARIABLES)
    with pytest.raises(TypeError):
        again(MODEL, other)


def test_rows_of_plain_and_elastic_networks_are_what_a_replay_reads(measured, tmp_path):
    composition = next(
        each for each in rows.of_plain(MODEL, VARIABLES) if each.name == "plain 8 bits"
    )
    blocks = [MODEL.block_names[i] for i in LADDER.sending_order]
    depths = next(
        each
        for each in rows.of_elastic(MODEL, VARIABLES, blocks, lambda _, held: held)
        if each.name == "Accordion 4-8 bits"
    )
    found = [measure(composition, measured), measure_depths(depths, LADDER.skip_masks, measured)]
    path = tmp_path / "compositions.json"
    path.write_text(json.dumps({"rows": found}))
    (rival,) = read_rivals(path)
    assert rival.name == "plain 8 bits"
    rungs = read_rungs(path, "Accordion 4-8 bits")
    # One a depth in 4 bits, and the full depth in 8.
    assert len(rungs.sizes_bytes) == len(LADDER) + 1
    assert list(rungs.sizes_bytes) == sorted(rungs.sizes_bytes)
    assert found[1]["points"][-1]["what"] == "4 blocks, 8 bits"
    assert found[1]["points"][-1]["error"] == found[0]["points"][0]["error"]


def test_rows_of_earlier_calls_stay_and_those_of_now_replace_them(tmp_path):
    def document(examples=60, run="", early_exit=None, **errors):
        found = [
            {"name": n, "rival": n != "ours", "error": error, "run": run}
            for n, error in errors.items()
        ]
        shared = {"dataset": "random", "examples": examples}
        return shared | {"rows": found, "early_exit": early_exit}

    path = tmp_path / "compositions.json"
    first = document(run="a", early_exit={"curve": []}, plain=0.3, ours=0.2)
    assert kept_before(path, first) == {}
    assert added_to({}, first) == first
    path.write_text(json.dumps(first))
    second = document(run="b", pruned=0.4, plain=0.1)
    found = added_to(kept_before(path, second), second)
    # Each says of which run it is.
    assert [(row["name"], row["error"], row["run"]) for row in found["rows"]] == [
        ("plain", 0.1, "b"),
        ("pruned", 0.4, "b"),
        ("ours", 0.2, "a"),
    ]
    assert found["early_exit"] == {"curve": []}
    with pytest.raises(ValueError, match="60 test images of random, not 50 of random"):
        kept_before(path, document(examples=50))


def test_early_exits_are_calibrated_on_one_set_and_reported_on_another(dataset, judge):
    run = types.SimpleNamespace(model=MODEL, variables=VARIABLES, ladder=LADDER)
    held_out = Judge(dataset.select(np.arange(30)), dataset.task)
    found = exits(run, judge, held_out)
    assert [each["depth"] for each in found["fixed"]] == [each.depth for each in LADDER]
    costs = [each["macs"] for each in found["fixed"]]
    assert costs == sorted(costs)
    assert all(costs[0] <= each["test"]["mean_macs"] <= 1.1 * costs[-1] for each in found["curve"])
    budget = found["budgets"]["0.50"]
    assert budget["held_out"]["mean_macs"] <= 0.5 * costs[-1]
    assert json.dumps(found, allow_nan=False)


def test_the_document_is_printed_and_drawn(measured, dataset, judge, tmp_path):
    composition = next(rows.of_plain(MODEL, VARIABLES))
    run = types.SimpleNamespace(model=MODEL, variables=VARIABLES, ladder=LADDER)
    document = {
        "dataset": "random",
        "examples": 60,
        "machine": "here",
        "rows": [measure(composition, measured) | {"note": "of a test"}],
        "early_exit": exits(run, judge, judge),
    }
    text = markdown(document)
    assert "| plain float32 | float32 | " in text
    assert "* plain float32: of a test." in text
    assert "| none: 4 blocks | " in text
    pictures.draw(tmp_path / "picture.png", document)
    pictures.draw(tmp_path / "without.png", document | {"early_exit": None})
    assert (tmp_path / "picture.png").stat().st_size > (tmp_path / "without.png").stat().st_size


def test_of_several_precisions_the_best_at_each_size_is_drawn():
    def points(*pairs):
        return [{"bytes": size, "error": error} for size, error in pairs]

    coarse, fine = points((10, 0.5), (30, 0.3), (90, 0.2)), points((20, 0.5), (30, 0.2), (95, 0.1))

    def size_and_error(point):
        return point["bytes"], point["error"]

    best = points((10, 0.5), (30, 0.2), (95, 0.1))
    assert best_of([*fine, *coarse], size_and_error) == best
    assert best_of([], size_and_error) == []
