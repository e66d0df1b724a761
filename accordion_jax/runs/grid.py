"""A grid of runs: which there are, how far each is, and the small files that are kept of each.

Nothing here asks JAX for its devices: the process that works through a grid must leave them to the
runs, each of which is a process of its own.
"""

import dataclasses
import difflib
import os
import pathlib
import shutil
import warnings
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from accordion_jax.depth import LookupTable, make_ladder
from accordion_jax.runs import config as config_lib
from accordion_jax.runs import stored_config
from accordion_jax.runs.folder import (
    CONFIG_FILE,
    METRICS_FILE,
    TABLE_CSV_FILE,
    TABLE_FILE,
    check_path,
)
from accordion_jax.runs.reporting import saved_step
from accordion_jax.runs.sessions import SESSIONS_FILE
from accordion_jax.system.files import read_json, replacing

# What of a run's folder is small enough to keep and send around.
SMALL_FILES = (CONFIG_FILE, METRICS_FILE, TABLE_FILE, TABLE_CSV_FILE, SESSIONS_FILE)


@dataclasses.dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
      name: unique in the grid: that of `config.run_name`, and the seed.
      spec: config file, with its variant after a colon.
      overrides: as ``--config.FIELD=VALUE``, the seed's among them.
      config: resolved, as nested JSON-able values.
      workdir: of `accordion_jax.main`.
    """

    name: str
    spec: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    workdir: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a run stands, read from its folder.

    Attributes:
      state: "done", "partly" or "not begun".
      step: of the newest checkpoint, or of the table; 0 where there is none.
      table: of a run that is done.
    """

    state: str
    step: int
    table: LookupTable | None = None


def plan(
    specs: Sequence[str],
    seeds: Sequence[int],
    runs: str | os.PathLike,
    overrides: Sequence[str] = (),
) -> tuple[GridRun, ...]:
    """Returns the runs of a grid: all configs with the first seed, then with the next.

    In that order a grid that is cut short has compared all configs at least once.

    Args:
      specs: config files, each with its variant after a colon where it has one.
      seeds: each at least 0.
      runs: folder of the runs' folders.
      overrides: ``--config.FIELD=VALUE``, applied to every config.

    Raises:
      ValueError: nothing to run, a file or variant that is not there, a field that is refused, two
        runs of one name, a folder where checkpoints cannot be kept, or a run's folder that holds
        another experiment; says which, and what to do.
    """
    if not specs or not seeds:
        raise ValueError(
            f"a grid needs a config and a seed at least; got configs={list(specs)}, "
            f"seeds={list(seeds)}"
        )
    for what, given in (("config", specs), ("seed", seeds)):
        repeated = sorted({str(each) for each in given if list(given).count(each) > 1})
        if repeated:
            raise ValueError(f"{what} {repeated[0]} is given twice; give each {what} once")
    if min(seeds) < 0:
        raise ValueError(f"seed {min(seeds)} is negative; wanted 0 or more")
    for override in overrides:
        if not override.startswith("--config.") or "=" not in override:
            raise ValueError(
                f"override {override!r} is not understood; wanted --config.FIELD=VALUE"
            )
        if override.startswith("--config.seed="):
            raise ValueError(f"{override} would give all runs one seed; use --seeds")
    check_path(runs)
    planned: dict[str, GridRun] = {}
    for seed in seeds:
        for spec in specs:
            run = _plan_one(spec, seed, pathlib.Path(runs), tuple(overrides))
            if run.name in planned:
                raise ValueError(
                    f"configs {planned[run.name].spec} and {spec} make the same run {run.name!r}; "
                    "give one of them, or another config.name"
                )
            planned[run.name] = run
    return tuple(planned.values())


def _plan_one(spec: str, seed: int, runs: pathlib.Path, overrides: tuple[str, ...]) -> GridRun:
    overrides = (*overrides, f"--config.seed={seed}")
    config = load_config(spec, overrides)
    config_lib.validate(config)
    make_ladder(config.scheme, (1,))  # refuses a scheme that is not known
    name = f"{config_lib.run_name(config)}_seed{seed}"
    run = GridRun(name, spec, overrides, config_lib.to_jsonable(config), runs / name)
    there = read_json(run.workdir / CONFIG_FILE).get("config")
    if there is not None:
        differing = stored_config.differences(there, run.config)
        stored_config.refuse_another(run.workdir, differing, "--runs")
    return run


def load_config(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Returns the config of a file and its variant, as ``--config=SPEC`` gives it to the main job.

    Args:
      spec: FILE or FILE:VARIANT.
      overrides: ``--config.FIELD=VALUE``.

    Raises:
      ValueError: the file or its variant is not there, it fails, or a field is unknown or of
        another type; says which.
    """
    path = pathlib.Path(spec.partition(":")[0])
    if not path.is_file():
        there = sorted(str(each) for each in path.parent.glob("*.py"))
        close = difflib.get_close_matches(str(path), there, 1)
        hint = f"did you mean {close[0]}?" if close else f"{path.parent} has {there or 'no config'}"
        raise ValueError(f"config {spec}: {path} does not exist; {hint}")
    values, argv = flags.FlagValues(), ["grid", f"--config={spec}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        with warnings.catch_warnings():
            # ml_collections loads files with a method that Python deprecates.
            warnings.filterwarnings("ignore", ".*load_module", DeprecationWarning)
            values(argv)
        config = values["config"].value
    except Exception as error:  # a config file is code, and can fail in any way
        said: Any = error
        while isinstance(said, BaseException) and said.args:  # KeyError's own text is quoted
            said = said.args[0]
        lines = str(said).strip().splitlines() or [repr(error)]
        problem = lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)
        if moved := stored_config.moved_fields(overrides):
            problem = "; ".join(moved)
        if "get_config() takes" in problem:
            problem = f"the file takes no variant; drop {spec[len(str(path)) :]!r}"
        given = " ".join([spec, *overrides])
        raise ValueError(f"config {given}: {problem}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"config {spec}: get_config gives {type(config)}, not a ConfigDict")
    return config


def look(run: GridRun) -> Standing:
    """Returns how a run stands.

    It is done when its look-up table is there, of its last step (of any, where the best checkpoint
    is swept) and of the config that is asked for, in what is trained and in what is swept. A table
    that cannot be read counts as none.
    """
    try:
        table = LookupTable.read(run.workdir)
    except (FileNotFoundError, ValueError):
        table = None
    if table is not None:
        facts = table.provenance
        whole = facts.get("step") == facts.get("total_steps")
        if (whole or run.config["sweep"]["checkpoint"] == "best") and _same(
            facts.get("config"), run.config
        ):
            return Standing("done", facts["step"], table)
    step = saved_step(run.workdir)
    return Standing("partly" if step else "not begun", step)


def _same(there: Any, asked: dict[str, Any]) -> bool:
    """Whether two configs are equal but for how a run is carried out."""
    return isinstance(there, dict) and {k: v for k, v in there.items() if k != "run"} == {
        k: v for k, v in asked.items() if k != "run"
    }


def keep_small_files(run: GridRun, out: str | os.PathLike) -> None:
    """Copies the small files of a run to ``<out>/<name>``, each whole or not at all."""
    folder = pathlib.Path(out) / run.name
    for name in SMALL_FILES:
        if (run.workdir / name).is_file():
            with replacing(folder / name) as temporary:
                shutil.copyfile(run.workdir / name, temporary)
