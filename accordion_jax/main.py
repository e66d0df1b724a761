"""The main job: trains a network that works at any depth, sweeps its truncations, writes the table.

    python -m accordion_jax.main --config=configs/quickstart.py

The same command on the same workdir goes on where it stopped; on a finished run it sweeps again.
"""

import logging
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from accordion_jax import data, evaluation, training
from accordion_jax.delivery.bundle.variables import read_model
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.depth import Ladder
from accordion_jax.models.costs import unit_costs
from accordion_jax.runs import stored_config
from accordion_jax.runs.folder import BusyError, check_path, held
from accordion_jax.runs.reporting import ending
from accordion_jax.system import command
from accordion_jax.training import kept_statistics
from accordion_jax.training.statistics import unrounded_statistics

_log = logging.getLogger("accordion_jax")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to run: a file of configs/, with its variant: FILE or FILE:fast."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run. Default: runs/<name>-<full probability>_seed<seed>."
)
_SEEDS = flags.DEFINE_list(
    "seeds",
    [],
    "Train these seeds at once, each step one program over all: for GPUs that one small network "
    "leaves idle. Each has a workdir of its own, under --workdir where that is given. "
    "Wants --config.policy.seed, since all draw the same depths.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of the first process, with several; TPU pods and Slurm need none."
)
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes take part; with coordinator.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which of them this is, from 0; with coordinator.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes that the environment (TPU pod, Slurm, MPI) describes."
)


def main(argv: Sequence[str]) -> None:
    """Trains, sweeps, and prints a short summary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; fields are --config.NAME=VALUE")
    config = _CONFIG.value
    if config is None:
        raise app.UsageError("give --config=FILE, such as --config=configs/quickstart.py")
    if _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    elif _DISTRIBUTED.value:
        jax.distributed.initialize()
    first = jax.process_index() == 0
    command.show_log(logging.INFO if first else logging.WARNING)
    seeds = _seeds(config)
    if len(seeds) > 1 and jax.default_backend() != "gpu":
        _log.warning(
            "seeds at once are for GPUs: on a %s they take longer than one after the other, as "
            "python -m accordion_jax.grid --configs=FILE --seeds=%s trains them",
            *(jax.default_backend(), ",".join(map(str, seeds))),
        )
    workdirs = _workdirs(config, seeds)
    for workdir in workdirs:
        _log.info("workdir: %s", workdir)
        check_path(workdir)
    mine = workdirs if first else []
    try:
        with held(mine), ending(mine, preempted=training.Preempted):
            _train_and_sweep(config, seeds, workdirs)
    except training.Preempted as stopped:
        print(f"saved at step {stopped.step}; the same command goes on from there")


def _train_and_sweep(
    config: ml_collections.ConfigDict, seeds: Sequence[int], workdirs: Sequence[pathlib.Path]
) -> None:
    """Trains and sweeps the runs of some seeds, each in its workdir."""
    first = jax.process_index() == 0
    _set_compilation_cache(config.run.compilation_cache, workdirs[0])
    started = time.monotonic()
    experiment = training.make_experiment(config, jax.device_count(), read_bundle=read_model)
    if config.sweep.own_statistics:  # refuses now what the sweep would after training
        kept_statistics.check(experiment, _swept(experiment))
    together = training.Together([experiment.with_seed(seed) for seed in seeds])
    for each, workdir in zip(together.experiments, workdirs, strict=True):
        training.claim_workdir(workdir, each, write=first)
    measured_on = data.load(
        config.data.name,
        config.sweep.split,
        data_dir=config.data.dir or None,
        holdout=config.data.holdout,
    )
    evaluate = evaluation.make_evaluate(
        experiment.model,
        experiment.ladder,
        experiment.policy,
        measured_on,
        batch_size=config.sweep.batch_size,
        examples=config.run.eval_examples,
        compiler_options=training.compiler_options(),
    )
    states = training.train_together(
        together, workdirs, evaluate=evaluate, eval_split=config.sweep.split
    )
    trained_s = time.monotonic() - started
    _sweep(together.experiments, workdirs, states, measured_on, trained_s)


def _sweep(
    experiments: Sequence[training.Experiment],
    workdirs: Sequence[pathlib.Path],
    states: Sequence[training.TrainState],
    measured_on: data.Dataset,
    trained_s: float,
) -> None:
    """Measures each run at every depth, writes its table and picture, and prints a summary."""
    experiment, first = experiments[0], jax.process_index() == 0
    config, ladder = experiment.config, _swept(experiment)
    options = {
        "batch_size": config.sweep.batch_size,
        "examples": config.sweep.examples,
        "compiler_options": training.compiler_options(),
    }
    sweep = evaluation.Sweep(experiment.model, ladder.skip_masks, measured_on, **options)
    for each, workdir, state in zip(experiments, workdirs, states, strict=True):
        started = time.monotonic()
        step, variables = int(data.unreplicate(state.step)), state.variables
        if config.sweep.checkpoint == "best":
            run = training.load_run(workdir, "best")
            step, variables = run.step, data.replicate(run.variables)
        on_host = jax.tree.map(np.asarray, data.unreplicate(variables))
        if (settled := unrounded_statistics(each, on_host)) is not on_host:
            on_host, variables = settled, data.replicate(settled)
        _log.info("sweeping %d configurations on %s", len(ladder), config.sweep.split)
        counts = sweep(variables)
        facts, own_bytes = training.provenance(each, step), {}
        if config.sweep.own_statistics:
            own = kept_statistics.measure_own(each, on_host, ladder, workdir, write=first)
            own_bytes = {name: kept_statistics.size_bytes(found) for name, found in own.items()}
            facts["statistics"] = evaluation.statistics_facts(
                ladder, counts, own_bytes, config.sweep.own_statistics
            )
            counts = evaluation.sweep_own(
                each.model, ladder, measured_on, on_host, own, counts, **options
            )
        if not first:
            continue
        costs = unit_costs(each.model, on_host, each.example_shape)
        table = evaluation.make_table(ladder, counts, *costs, facts, own_bytes)
        paths = evaluation.write_results(
            table, workdir, bits_per_parameter=config.sweep.bits_per_parameter
        )
        print(f"\n{evaluation.summarise(table)}")
        swept_s = time.monotonic() - started
        if own_bytes:
            batches = config.sweep.own_statistics
            print(f"own statistics, of {batches} batches, of {', '.join(own_bytes)}")
        print(f"trained to step {step} ({trained_s:.0f} s now), swept in {swept_s:.0f} s")
        print("\n".join(f"  {path}" for path in paths))
    if first and len(workdirs) > 1:
        runs = " ".join(map(str, workdirs))
        print(f"\nall of them on one picture: python -m accordion_jax.report {runs} --out=FILE.png")


def _swept(experiment: training.Experiment) -> Ladder:
    """The configurations that are measured at the end."""
    depths = experiment.config.sweep.depths
    return experiment.ladder.subset(depths) if depths else experiment.ladder


def _seeds(config) -> tuple[int, ...]:
    """The seeds to train at once; without the flag, that of the config alone."""
    try:
        return tuple(int(seed) for seed in _SEEDS.value) or (config.seed,)
    except ValueError:
        raise ValueError(
            f"--seeds={','.join(_SEEDS.value)} must be whole numbers, such as 0,1,2"
        ) from None


def _workdirs(config, seeds: tuple[int, ...]) -> list[pathlib.Path]:
    """One a seed."""
    if _WORKDIR.value and not _SEEDS.value:
        return [pathlib.Path(_WORKDIR.value)]
    if _WORKDIR.value:
        return [pathlib.Path(_WORKDIR.value) / f"seed{seed}" for seed in seeds]
    return [pathlib.Path(f"runs/{training.run_name(config)}_seed{seed}") for seed in seeds]


def _set_compilation_cache(folder: str, workdir: pathlib.Path) -> None:
    """Keeps compiled programs on disk, so that a run that goes on does not compile again."""
    if folder == "off":
        return
    path = pathlib.Path(folder) if folder else workdir / "compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(path.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    for entry in path.glob("*-cache"):
        if not entry.stat().st_size:  # of a disk that was full; JAX would never write it again
            entry.unlink(missing_ok=True)
    _tell_once_of_trouble_with(path)


def _tell_once_of_trouble_with(cache: pathlib.Path) -> None:
    """One line in place of JAX's warning a program, where the compilation cache is of no use."""
    show, told = warnings.showwarning, False

    def show_or_tell(message: Warning | str, *more: Any, **named: Any) -> None:
        nonlocal told
        text = " ".join(str(message).split())
        if "persistent compilation cache" not in text:
            show(message, *more, **named)
        elif not told:
            told = True
            _log.warning(
                "%s: the run goes on, and programs are compiled anew. If the disk of %s is full, "
                "make room; if not, delete that folder",
                *(text, cache),
            )

    warnings.showwarning = show_or_tell


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    errors = (
        BusyError,
        DeliveryError,
        training.CheckpointError,
        training.DivergedError,
        data.DatasetUnavailableError,
    )
    command.run(main, errors=errors, parse=_parse_flags, argv=argv)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a field that the config lacks is told in words."""
    try:
        return flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:  # a field of old may be a section now
        if moved := stored_config.moved_fields(argv):
            raise ValueError("; ".join(moved)) from error
        raise
    except (AttributeError, KeyError, TypeError) as error:  # as ml_collections refuses a field
        reason: BaseException | str = error
        while isinstance(reason, BaseException):  # one may be wrapped in another
            reason = reason.args[0] if reason.args else repr(reason)
        if moved := stored_config.moved_fields(argv):
            raise ValueError("; ".join(moved)) from error
        fields = " ".join(each for each in argv if each.startswith("--config."))
        raise ValueError(f"no such config field in {fields}: {reason}") from error


if __name__ == "__main__":
    run()
