"""What training, its tables and its grids tell people to do helps."""

import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from absl import flags

from accordion_jax import data, evaluation, training
from accordion_jax.depth import LookupTable, make_ladder, make_policy
from accordion_jax.runs import config as config_lib
from accordion_jax.runs import folder, grid
from accordion_jax.runs.sessions import SESSIONS_FILE, read_sessions
from accordion_jax.system.files import read_json
from accordion_jax.system.numbers import Number
from accordion_jax.training.objective import Draw
from accordion_jax.training.variants import Variants
from tests.commands import ROOT, call_main, command_alone, command_environment
from tests.evaluation.test_pictures import LADDER, table_of
from tests.runs.test_grid_plan import QUICKSTART, a_table
from tests.training.test_loop import DIVERGING, make, small_config


@contextlib.contextmanager
def refused(error=ValueError):
    """Yields a list that then has the message."""
    said = []
    with pytest.raises(error) as caught:
        yield said
    said.append(str(caught.value))


@contextlib.contextmanager
def configs_are_loaded():
    """ml_collections loads files with a method that Python deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*load_module", DeprecationWarning)
        yield


def listed(text):
    """The choices of ``... one of ['a', 'b']``."""
    return ast.literal_eval(re.findall(r"\[.*\]", text)[-1])


@pytest.mark.tries("set holdout to the number of training images")
def test_a_validation_split_takes_a_holdout():
    with refused() as said:
        data.load("digits", "validation")
    assert "set holdout" in said[0]
    assert len(data.load("digits", "validation", holdout=100)) == 100
    assert "or load the test split" in said[0]
    assert len(data.load("digits", "test")) > 0


@pytest.mark.tries("set config.data.holdout, for instance to a tenth")
def test_a_sweep_of_the_validation_split_takes_a_holdout():
    config = small_config(sweep__split="validation")
    with refused() as said:
        config_lib.validate(config)
    assert "set config.data.holdout" in said[0]
    config.data.holdout = len(data.load("digits", "train")) // 10
    config_lib.validate(config)
    assert len(data.load("digits", "validation", holdout=config.data.holdout)) > 100


@pytest.mark.tries("lower min_depth or set full_probability=1")
def test_a_policy_without_a_smaller_configuration():
    ladder = make_ladder("coml", (1, 1))
    fields = {"name": "full_or_uniform", "full_probability": 0.5, "min_depth": 2}
    with refused() as said:
        make_policy(fields.pop("name"), ladder, fields)
    assert "lower min_depth or set full_probability=1" in said[0]
    for change in ({"min_depth": 1}, {"full_probability": 1.0}):
        make_policy("full_or_uniform", ladder, fields | change)


@pytest.mark.tries(
    "scheme={} is not known; choose one of",
    "config.objective.name={} is not known; choose one of",
)
def test_each_choice_that_is_offered_may_be_chosen():
    with refused() as said:
        make_ladder("rnn", (1, 1))
    for scheme in listed(said[0]):
        assert make_ladder(scheme, (1, 1))
    with refused() as said:
        make(objective__name="least")
    for objective in listed(said[0]):
        assert make(objective__name=objective)


@pytest.mark.tries("want several configurations in a step")
def test_each_objective_that_is_offered_for_distillation_takes_it():
    with refused() as said:
        make(objective__distillation=0.5)
    offered = re.findall(r"'(\w+)'", said[0].partition("use ")[2])
    assert len(offered) == 3
    for name in offered:
        assert make(objective__name=name, objective__distillation=0.5)


@pytest.mark.tries("policy {} is not known; choose one of")
def test_each_policy_that_is_offered_is_known():
    ladder = make_ladder("coml", (1, 1))
    with refused() as said:
        make_policy("sometimes", ladder, {})
    own = {
        "full_or_uniform": {"full_probability": 0.5, "min_depth": 1},
        "listed": {"probabilities": (0.2, 0.3, 0.5)},
    }
    for name in listed(said[0]):
        with contextlib.suppress(ValueError):  # of fields that only that policy knows
            make_policy(name, ladder, own.get(name, {}))
        with pytest.raises(ValueError, match="surplus") as caught:
            make_policy(name, ladder, {"surplus": 1})
        assert "is not known; choose one of" not in str(caught.value)


@pytest.mark.tries("sweep them with the same config.sweep.depths")
def test_runs_that_were_swept_alike_are_averaged():
    other = table_of(50, 20, ladder=LADDER.subset((0,)))
    with refused() as said:
        evaluation.average_seeds("x", [table_of(50, 20, 10), other])
    assert said[0].endswith("sweep them with the same config.sweep.depths")
    assert evaluation.average_seeds("x", [table_of(50, 20, 10), table_of(40, 20, 10)])


@pytest.mark.tries("use .png or one of")
def test_each_ending_that_is_offered_is_drawn(tmp_path):
    curve = evaluation.average_seeds("x", [table_of(50, 20, 10)])
    with refused() as said:
        evaluation.draw_error_vs_size([curve], tmp_path / "picture.xyz")
    for ending in ["png", *listed(said[0])]:
        path = evaluation.draw_error_vs_size([curve], tmp_path / f"picture.{ending}")
        assert path.stat().st_size > 0


@pytest.mark.tries("was given twice; give each run once", "name at least one run: its folder, or")
def test_a_report_of_runs_that_are_named_once(tmp_path, capsys):
    table = table_of(50, 20, 10)
    facts = {"name": "small", "dataset": "digits", "split": "test", "error_name": "top-1 error"}
    for seed in (0, 1):
        each = LookupTable(table.rows, table.provenance | facts | {"seed": seed})
        each.write(tmp_path / f"seed{seed}")
    out = f"--out={tmp_path / 'p.png'}"
    with pytest.raises(Exception, match="name at least one run: its folder, or its lookup_table"):
        call_main("report", out)
    with refused() as said:
        call_main("report", tmp_path / "seed0", tmp_path / "seed0", out)
    assert said[0].endswith("give each run once")
    for run in ("seed1", "seed1/lookup_table.json"):
        call_main("report", tmp_path / "seed0", tmp_path / run, out)
    assert "| 2 |" in capsys.readouterr().out


@pytest.mark.tries("config variant {} is not known; use none, or")
def test_a_config_has_the_variants_that_are_offered():
    spec = QUICKSTART.replace("quickstart", "resnet56_coml")
    with refused() as said:
        grid.plan([f"{spec}:slow"], [0], "runs")
    assert "use none, or ':fast'" in said[0]
    for variant in ("", ":fast"):
        assert grid.plan([spec + variant], [0], "runs")


@pytest.mark.tries("is missing; start from default_config()", "set it beside the section's own")
def test_a_config_that_lacks_a_field():
    config = small_config()
    with config.unlocked():
        del config.train.batch_size
        del config.policy["seed"]
    with refused() as said:
        config_lib.validate(config)
    assert "start from default_config()" in said[0]
    with config.unlocked():
        config.train.batch_size = config_lib.default_config().train.batch_size
    with refused() as said:
        config_lib.validate(config)
    assert "config.policy.seed is missing; set it" in said[0]
    with config.unlocked():
        config.policy.seed = config_lib.default_config().policy.seed
    config_lib.validate(config)


@pytest.mark.tries("Use the old values, or another")
def test_a_folder_of_another_experiment(tmp_path):
    training.claim_workdir(tmp_path, make(), write=True)
    with refused() as said:
        training.claim_workdir(tmp_path, make(train__steps=9), write=True)
    ((field, old),) = re.findall(r"config\.(\S+): (\S+) -> ", said[0])
    old_values = {field.replace(".", "__"): ast.literal_eval(old)}
    training.claim_workdir(tmp_path, make(**old_values), write=True)
    assert said[0].endswith("or another --workdir.")
    training.claim_workdir(tmp_path / "another", make(train__steps=9), write=True)


@pytest.mark.tries("holds no JSON object; mend it", "is damaged ({}); mend it")
@pytest.mark.parametrize("text", ["[]", "{"])
@pytest.mark.parametrize("name", ["config.json", "policy.json"])
def test_a_damaged_file_of_a_run_may_be_mended_or_moved_away(tmp_path, name, text):
    training.claim_workdir(tmp_path, make(), write=True)
    right = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text)
    with refused() as said:
        training.claim_workdir(tmp_path, make(), write=True)
    assert said[0].endswith("mend it, or move it away")
    (tmp_path / name).write_text(right)
    training.claim_workdir(tmp_path, make(), write=True)
    (tmp_path / name).write_text(text)
    (tmp_path / name).rename(tmp_path / "away")
    training.claim_workdir(tmp_path, make(), write=True)
    assert read_json(tmp_path / name) == json.loads(right)


@pytest.mark.tries("wanted a list of sessions")
def test_a_damaged_record_of_time_may_be_moved_away(tmp_path):
    (tmp_path / SESSIONS_FILE).write_text('{"sessions": 3}')
    with refused() as said:
        read_sessions(tmp_path)
    assert said[0].endswith("mend it, or move it away")
    (tmp_path / SESSIONS_FILE).rename(tmp_path / "away")
    assert read_sessions(tmp_path) == []


@pytest.mark.tries("it has no object {}; mend it, or move it away", "give the run's own command, p")
@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_the_runs_own_command_writes_its_files_again(tmp_path, how):
    experiment = make()
    training.claim_workdir(tmp_path, experiment, write=True)
    path = tmp_path / "config.json"
    right = path.read_bytes()
    if how == "emptied":
        path.write_text("{}")
        with refused() as said:
            training.load_run(tmp_path)
        assert "move it away and give the run's own command again" in said[0]
        path.rename(tmp_path / "away")
    else:
        path.unlink()
        with refused(FileNotFoundError) as said:
            training.load_run(tmp_path)
        command = re.search(r"python -m accordion_jax\.main (\S+) (\S+): ", said[0]).groups()
        with command_alone("main") as main:
            with configs_are_loaded():
                flags.FLAGS(["main", command[0].replace("FILE", QUICKSTART), command[1]])
            assert main._workdirs(small_config(), (0,)) == [tmp_path]
    training.claim_workdir(tmp_path, experiment, write=True)
    assert path.read_bytes() == right


@pytest.mark.tries("nearest: {}")
def test_the_nearest_batch_sizes_are_taken():
    with refused() as said:
        make(train__batch_size=124)
    for size in ast.literal_eval(f"[{said[0].split('nearest: ')[1]}]"):
        assert make(train__batch_size=size)


@pytest.mark.tries("a draw has a skip mask twice; add up its weights")
def test_the_weights_of_a_mask_are_added_up():
    with refused() as said:
        Draw(((True,), (True,)), (0.25, 0.75))
    assert said[0].endswith("add up its weights")
    assert Draw(((True,),), (1.0,)).skip_masks == ((True,),)


@pytest.mark.tries("set config.policy.seed, for instance to 0")
def test_seeds_at_once_take_a_seed_of_the_policy():
    def together(**policy):
        return training.Together([make(seed=seed, **policy) for seed in (0, 1)])

    with refused() as said:
        together()
    ((field, value),) = re.findall(r"set config\.(\S+), for instance to (\d+)", said[0])
    assert len(together(**{field.replace(".", "__"): int(value)}).seeds) == 2


@pytest.mark.tries("close the variants first")
def test_variants_that_are_closed_compile_in_the_background_again():
    variants = Variants(lambda draw: pytest.fail("no draw was given"))
    variants.compile_in_background([])
    with refused(RuntimeError) as said:
        variants.compile_in_background([])
    assert said[0].endswith("close the variants first")
    variants.close()
    variants.compile_in_background([])
    variants.close()


@pytest.mark.tries("leave the flag out for no bound")
def test_a_bound_that_is_left_out():
    with refused() as said:
        Number(0).parse("inf")
    assert said[0].endswith("leave the flag out for no bound")
    with command_alone("fetch") as fetch:
        flags.FLAGS(["fetch", "http://host"])
        assert fetch._DEADLINE_S.value is None


@pytest.mark.tries("; wait until it has ended, or")
def test_a_run_that_is_busy_is_free_when_its_process_was_stopped(tmp_path):
    program = (
        "import sys, time; from accordion_jax.runs.folder import held\n"
        "with held([sys.argv[1]]): print('holds', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env=command_environment(),
    )
    try:
        process.stdout.readline()
        with refused(folder.BusyError) as said, folder.held([tmp_path]):
            pass
        (pid,) = re.findall(r"or stop it \(kill (\d+)\)$", said[0])
        assert int(pid) == process.pid
        os.kill(int(pid), signal.SIGTERM)
        process.wait(60)
        with folder.held([tmp_path]):
            pass
    finally:
        process.kill()
        process.communicate()


@pytest.mark.tries(
    "{} {} is given twice; give each",
    "would give all runs one seed; use --seeds",
    "the file takes no variant; drop",
)
def test_a_grid_that_is_given_as_it_says(tmp_path):
    with refused() as said:
        grid.plan([QUICKSTART], [1, 1], tmp_path)
    assert said[0].endswith("give each seed once")
    assert len(grid.plan([QUICKSTART], [1], tmp_path)) == 1
    with refused() as said:
        grid.plan([QUICKSTART], [0], tmp_path, ["--config.seed=3"])
    with command_alone("grid") as command:
        flags.FLAGS(["grid", f"{re.search('use (--seeds)', said[0])[1]}=3"])
        (run,) = grid.plan([QUICKSTART], command._whole_numbers(command._SEEDS.value), tmp_path)
    assert run.config["seed"] == 3
    with refused() as said:
        grid.plan([f"{QUICKSTART}:fast"], [0], tmp_path)
    (surplus,) = re.findall("drop '(.*)'", said[0])
    assert grid.plan([f"{QUICKSTART}:fast".removesuffix(surplus)], [0], tmp_path)


@pytest.mark.tries("give one of them, or another config.name")
def test_two_configs_of_one_name(tmp_path):
    text = (ROOT / "configs/quickstart.py").read_text()
    (tmp_path / "same.py").write_text(text)
    (tmp_path / "other.py").write_text(text.replace('"quickstart"', '"other"'))
    with refused() as said:
        grid.plan([QUICKSTART, str(tmp_path / "same.py")], [0], tmp_path)
    assert said[0].endswith("give one of them, or another config.name")
    assert len(grid.plan([QUICKSTART], [0], tmp_path)) == 1
    assert len(grid.plan([QUICKSTART, str(tmp_path / "other.py")], [0], tmp_path)) == 2


@pytest.mark.tries("too little to train in; wanted {} or more, or less grace")
def test_a_budget_that_is_as_large_as_it_says():
    def stop_at(*given):
        with command_alone("grid") as command:
            flags.FLAGS(["grid", *given])
            return command._stop_at(0.0)

    with refused() as said:
        stop_at("--budget_s=50", "--grace_s=60")
    least = re.search("wanted (\\S+) or more", said[0])[1]
    assert stop_at(f"--budget_s={least}", "--grace_s=60") == 60
    assert stop_at("--budget_s=50", "--grace_s=25") == 25


@pytest.mark.tries("give --config=FILE, such as --config=")
def test_the_config_that_it_names_is_there():
    with pytest.raises(Exception, match="give --config=FILE") as caught:
        call_main("main")
    (example,) = re.findall(r"such as --config=(\S+)$", str(caught.value))
    assert grid.plan([str(ROOT / example)], [0], "runs")


@pytest.mark.tries("as python -m accordion_jax.grid --configs=FILE --seeds=%s trains them")
def test_seeds_that_do_not_pay_at_once_are_a_grid(tmp_path, monkeypatch, caplog):
    with command_alone("main") as main:
        monkeypatch.setattr(main._log, "propagate", True)
        monkeypatch.setattr(main.command, "show_log", lambda *_: None)
        with configs_are_loaded():
            flags.FLAGS(["main", f"--config={QUICKSTART}", "--seeds=3,4", "--workdir=/[no]"])
        with pytest.raises(ValueError, match="checkpoints cannot be kept"):
            main.main(["main"])
    (told,) = (text for text in caplog.messages if "accordion_jax.grid" in text)
    given = re.search(r"python -m accordion_jax\.grid (\S+) (\S+) trains them", told).groups()
    with command_alone("grid") as command:
        flags.FLAGS(["grid", given[0].replace("FILE", QUICKSTART), given[1]])
        seeds = command._whole_numbers(command._SEEDS.value)
        runs = grid.plan(command._CONFIGS.value, seeds, tmp_path)
    assert [run.config["seed"] for run in runs] == [3, 4]


@pytest.mark.tries("Lower config.optimizer.learning_rate or set config.optimizer.warmup_epochs")
def test_a_run_that_diverged_is_well_at_a_lower_rate(tmp_path):
    with refused(training.DivergedError) as said:
        training.train(make(**DIVERGING), tmp_path / "first")
    rate, warmup = re.search(
        r"Lower config\.(\S+) or set config\.(\S+), and use another --workdir$", said[0]
    ).groups()
    lower = DIVERGING | {rate.replace(".", "__"): 0.02, warmup.replace(".", "__"): 1.0}
    state = training.train(make(**lower), tmp_path / "another")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(data.unreplicate(state)))


@pytest.mark.tries(
    "train it first",
    "train it with config.run.eval_every_epochs above 0, or take the latest",
    "run accordion_jax.main on it again, which sweeps",
)
def test_a_run_without_the_checkpoint_that_is_wanted(tmp_path):
    experiment = make()
    training.claim_workdir(tmp_path, experiment, write=True)
    training.Checkpoints(tmp_path / folder.CHECKPOINTS).close()
    with refused(training.CheckpointError) as said:
        training.load_run(tmp_path)
    assert said[0].endswith("train it first")
    training.train(experiment, tmp_path)
    run = training.load_run(tmp_path)
    with refused(training.CheckpointError) as said:
        training.load_run(tmp_path, "best")
    assert said[0].endswith("above 0, or take the latest")
    evaluated = make(train__steps=22, run__eval_every_epochs=1.0, run__checkpoint_every_steps=22)
    training.claim_workdir(tmp_path / "evaluated", evaluated, write=True)
    training.train(evaluated, tmp_path / "evaluated", evaluate=lambda _: {"error": 0.5})
    assert training.load_run(tmp_path / "evaluated", "best").step == 22

    table = a_table(config_lib.to_jsonable(experiment.config), step=2, total_steps=6)
    with refused() as said:
        training.load_measured_run(tmp_path, table)
    assert "measured at step 2; its checkpoints are of steps [6" in said[0]
    # What that command does with a run that is trained to its end.
    swept = a_table(config_lib.to_jsonable(experiment.config), step=run.step, total_steps=6)
    assert training.load_measured_run(tmp_path, swept).step == 6


_COMPILES = """
import sys, jax, jax.numpy as jnp
from accordion_jax import main
from accordion_jax.system import command
import pathlib
command.show_log()
main._set_compilation_cache(sys.argv[1], pathlib.Path())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
print(jax.jit(lambda x: jnp.sin(x) + 1)(1.0))
"""


@pytest.mark.tries("make room; if not, delete that folder")
def test_a_cache_that_is_damaged_is_well_when_it_was_deleted(tmp_path):
    cache = tmp_path / "cache"

    def said():
        done = subprocess.run(
            [sys.executable, "-c", _COMPILES, cache],
            capture_output=True,
            text=True,
            check=True,
            env=command_environment(),
        )
        return done.stderr.splitlines()

    assert said() == []
    for entry in cache.glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[:20])
    (line,) = said()
    assert line.endswith(f"If the disk of {cache} is full, make room; if not, delete that folder")
    for entry in cache.iterdir():
        entry.unlink()
    cache.rmdir()
    assert said() == []
    assert list(cache.glob("*-cache"))
