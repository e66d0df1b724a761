"""A grid's runs, how far each is, and the files that are kept."""

import json
import pathlib

import pytest

from accordion_jax.depth import LookupTable, wilson_interval
from accordion_jax.runs import grid
from accordion_jax.runs.reporting import Reporter
from accordion_jax.runs.sessions import seconds_spent, write_sessions

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs/quickstart.py")
COML = str(ROOT / "configs/resnet56_coml.py")
A_SESSION = {"started": "2025-01-31T12:00:00+00:00", "seconds": 1.0}


def a_table(config, step=4, total_steps=4):
    """A table of one row, as the main job writes it for a config."""
    provenance = {"config": config, "step": step, "total_steps": total_steps}
    low, high = wilson_interval(5, 10)
    row = {
        "configuration": "coml-1",
        "depth": 1,
        "stage_blocks": [1],
        "parameters": 10,
        "size_bytes": 40,
        "mbit": 0.00032,
        "share_of_bytes": 1.0,
        "share_of_blocks": 1.0,
        "macs": 10,
        "examples": 10,
        "errors": 5,
        "top1_error": 0.5,
        "error_low": low,
        "error_high": high,
        "cross_entropy": 1.0,
    }
    document = {"schema_version": 1, "provenance": provenance, "rows": [row]}
    return LookupTable.from_json(json.dumps(document))


def test_every_config_gets_the_first_seed_before_any_gets_the_next(tmp_path):
    runs = grid.plan([QUICKSTART, f"{COML}:fast"], [3, 1], tmp_path)
    assert [run.name for run in runs] == [
        "quickstart-05_seed3",
        "resnet56_coml_fast-05_seed3",
        "quickstart-05_seed1",
        "resnet56_coml_fast-05_seed1",
    ]
    assert [run.config["seed"] for run in runs] == [3, 3, 1, 1]
    assert runs[0].workdir == tmp_path / "quickstart-05_seed3"


def test_overrides_reach_every_config(tmp_path):
    overrides = [
        "--config.policy.full_probability=0.3",
        "--config.model.arguments.stage_sizes=(2,2,2)",
    ]
    for run in grid.plan([QUICKSTART, COML], [0], tmp_path, overrides):
        assert run.config["policy"]["full_probability"] == 0.3
        assert run.config["model"]["arguments"]["stage_sizes"] == [2, 2, 2]
        assert "-03_" in run.name


@pytest.mark.parametrize(
    ("specs", "seeds", "overrides", "words"),
    [
        ([], [0], [], "needs a config and a seed"),
        ([QUICKSTART], [], [], "needs a config and a seed"),
        ([QUICKSTART, QUICKSTART], [0], [], "quickstart.py is given twice"),
        ([QUICKSTART], [1, 0, 1], [], "seed 1 is given twice"),
        ([QUICKSTART], [-1], [], "seed -1 is negative"),
        ([QUICKSTART.replace("start", "strat")], [0], [], "did you mean .*quickstart.py"),
        ([f"{QUICKSTART}:fast"], [0], [], "takes no variant; drop ':fast'"),
        ([f"{COML}:slow"], [0], [], "variant 'slow' is not known"),
        ([QUICKSTART], [0], ["--config.train.stepz=4"], 'Did you mean "steps"'),
        ([QUICKSTART], [0], ["--config.train.steps=many"], "train.steps"),
        ([QUICKSTART], [0], ["--config.train.steps=-4"], "steps=-4 must be at least 0"),
        ([QUICKSTART], [0], ["--config.scheme=colm"], "scheme='colm' is not known"),
        ([QUICKSTART], [0], ["train.steps=4"], "wanted --config.FIELD=VALUE"),
        ([QUICKSTART], [0], ["--config.seed=4"], "use --seeds"),
        ([QUICKSTART, COML], [0], ["--config.name=x"], "make the same run 'x-05_seed0'"),
    ],
)
def test_refuses_in_words(tmp_path, specs, seeds, overrides, words):
    with pytest.raises(ValueError, match=words):
        grid.plan(specs, seeds, tmp_path, overrides)


def test_refuses_a_folder_of_another_experiment_and_names_the_field(tmp_path):
    (run,) = grid.plan([QUICKSTART], [0], tmp_path)
    run.workdir.mkdir()
    (run.workdir / "config.json").write_text(json.dumps({"config": run.config}))
    grid.plan([QUICKSTART], [0], tmp_path, ["--config.sweep.examples=7"])  # not what is trained
    with pytest.raises(ValueError, match=r"config.train.epochs: 20.0 -> 3.0"):
        grid.plan([QUICKSTART], [0], tmp_path, ["--config.train.epochs=3.0"])


def test_refuses_folders_where_checkpoints_would_be_lost(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoints cannot be kept in .*\[trial\]"):
        grid.plan([QUICKSTART], [0], tmp_path / "[trial]")


def test_a_config_file_that_fails_says_why(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    raise TypeError('no such thing')\n")
    with pytest.raises(ValueError, match=r"broken.py .*: TypeError: no such thing"):
        grid.plan([str(broken)], [0], tmp_path)


def test_a_run_is_done_with_the_table_of_its_config_and_last_step(tmp_path):
    (run,) = grid.plan([QUICKSTART], [0], tmp_path)
    assert grid.look(run) == grid.Standing("not begun", 0)
    reporter = Reporter([run.workdir], 4, batch_size=1)
    reporter.update(3, saved=lambda: [None])
    assert grid.look(run) == grid.Standing("not begun", 0)
    reporter.update(5, saved=lambda: [4], now=True)
    assert grid.look(run) == grid.Standing("partly", 4)
    a_table(run.config).write(run.workdir)
    assert grid.look(run).state == "done"
    a_table(run.config, step=2).write(run.workdir)
    assert grid.look(run).state == "partly"
    for section, field, value, state in (
        ("run", "log_every_steps", 7, "done"),
        ("sweep", "examples", 7, "partly"),
        ("train", "epochs", 7.0, "partly"),
    ):
        other = run.config | {section: run.config[section] | {field: value}}
        a_table(other).write(run.workdir)
        assert grid.look(run).state == state, section
    (run.workdir / "lookup_table.json").write_text("{")
    assert grid.look(run).state == "partly"


def test_a_sweep_of_the_best_checkpoint_may_be_of_an_earlier_step(tmp_path):
    (run,) = grid.plan([QUICKSTART], [0], tmp_path, ["--config.sweep.checkpoint=best"])
    a_table(run.config, step=2).write(run.workdir)
    assert grid.look(run).state == "done"


def test_keeps_the_small_files_and_nothing_else(tmp_path):
    (run,) = grid.plan([QUICKSTART], [0], tmp_path / "runs")
    grid.keep_small_files(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    a_table(run.config).write(run.workdir)
    (run.workdir / "checkpoints").mkdir()
    write_sessions(run.workdir, [A_SESSION | {"seconds": 2.0}, A_SESSION | {"seconds": 0.5}])
    grid.keep_small_files(run, tmp_path / "out")
    kept = sorted(path.name for path in (tmp_path / "out" / run.name).iterdir())
    assert kept == ["lookup_table.csv", "lookup_table.json", "sessions.json"]
    assert seconds_spent(run.workdir) == 2.5


@pytest.mark.parametrize(
    "sessions", ["x", [1], [{}], [{"seconds": "1"}], [A_SESSION | {"started": "then"}]]
)
def test_a_damaged_record_of_time_is_named(tmp_path, sessions):
    path = tmp_path / "sessions.json"
    path.write_text(json.dumps({"sessions": sessions}))
    with pytest.raises(ValueError, match=f"^{path} is damaged: .* mend it, or move it away$"):
        seconds_spent(tmp_path)
    path.rename(tmp_path / "away")  # as it says
    assert seconds_spent(tmp_path) == 0
