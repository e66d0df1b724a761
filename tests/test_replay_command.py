"""The replay command as a person runs it, where a model of its own is run."""

import csv
import json

import numpy as np
import pytest

from tests.delivery.forests import write_forest
from tests.delivery.resnets import make_images, write_resnet


@pytest.fixture
def replay(tmp_path, run_command):
    (tmp_path / "link.csv").write_text("time_s,downlink_mbps\n0,1\n1,4\n2,2\n")

    def run(bundle, *flags, code=0):
        done = run_command(
            "accordion_jax.replay",
            *([f"--bundle={bundle}"] if bundle else []),
            f"--traces={tmp_path / 'link.csv'}",
            f"--out={tmp_path / 'out'}",
            "--starts=3",
            "--classes=10",
            *flags,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_eight_bits_are_measured_on_data_whose_shapes_were_checked(replay, tmp_path):
    bundle, *_ = write_resnet(tmp_path)
    images, labels = make_images(20), np.arange(20) % 10
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    said = replay(bundle, f"--data={tmp_path / 'x.npz'}").stdout
    error = float(said.partition("8 bits: error ")[2].split()[0])
    assert 0 <= error <= 1
    assert "measured on 20 images" in said
    np.savez(tmp_path / "x.npz", images=images, labels=labels[:, None])
    refused = replay(bundle, f"--data={tmp_path / 'x.npz'}", code=1).stderr
    assert "Take the one column: labels[:, 0]" in refused
    np.savez(tmp_path / "x.npz", images=images)
    assert "has no 'labels'" in replay(bundle, f"--data={tmp_path / 'x.npz'}", code=1).stderr


def test_a_forest_has_no_weights_of_eight_bits(replay, tmp_path):
    said = replay(write_forest(tmp_path)[0]).stdout
    assert "Accordion" in said
    assert "8 bits" not in said


def test_rivals_and_rungs_come_from_a_table_and_are_held_at_several_round_trips(replay, tmp_path):
    table = tmp_path / "compositions.json"
    rows = [
        {"name": name, "rival": rival, "points": [{"bytes": size, "error": error}]}
        for name, rival, size, error in [
            ("ahead", True, 50_000, 0.1),
            ("behind", True, 90_000, 0.4),
            ("ours", False, 60_000, 0.2),
        ]
    ]
    table.write_text(json.dumps({"rows": rows}))
    trips = ["--round_trip_s=0.01", "--round_trip_s=0.1"]
    said = replay(None, f"--rungs={table}=ours", f"--rivals={table}", "--slow_start", *trips).stdout
    assert "behind 1 of 2" in said
    assert "ahead (50.0 kB with 10.0 %, where Accordion has nothing within 1.05" in said
    found = json.loads((tmp_path / "out" / "behind.json").read_text())
    assert {each["rival"] for each in found["behind"]} == {"ahead"}
    assert {each["round_trip_s"] for each in found["behind"]} == {0.01, 0.1}
    assert found["slack"] == 1.05
    with (tmp_path / "out" / "replay.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["method"] for line in lines} == {"Accordion", "ahead", "behind"}
    assert {line["round_trip_s"] for line in lines} == {"0.01", "0.1"}
    assert (tmp_path / "out" / "replay.png").stat().st_size > 10_000


@pytest.mark.tries("give --bundle=FOLDER, or --rungs=FILE in its place")
def test_a_bundle_or_rungs_are_needed(replay, tmp_path):
    assert "--rungs=FILE in its place" in replay(None, code=1).stderr
    path = tmp_path / "rungs.json"
    path.write_text(json.dumps({"rungs": [{"bytes": 100, "error": 0.5}]}))
    said = replay(None, f"--rungs={path}").stdout
    assert "Accordion" in said
    assert "against every rival" not in said
