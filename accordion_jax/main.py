"""The main job: trains a network that works at any depth, sweeps its truncations, writes the table.

    python -m accordion_jax.main --config=configs/quickstart.py

The same command on the same workdir goes on where it stopped; on a finished run it sweeps again.
"""

import logging
import pathlib
import sys
import time

import jax
import tqdm
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from accordion_jax import data, evaluation, training

_log = logging.getLogger("accordion_jax")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to run: a file of configs/, with its variant: FILE or FILE:fast."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run. Default: runs/<name>-<full probability>_seed<seed>."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of the first process, with several; TPU pods and Slurm need none."
)
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes take part; with coordinator.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which of them this is, from 0; with coordinator.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the processes that the environment (TPU pod, Slurm, MPI) describes."
)


def main(argv: list[str]) -> None:
    """Trains, sweeps, and prints a short summary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; fields are --config.NAME=VALUE")
    absl_logging.set_verbosity(absl_logging.WARNING)
    config = _CONFIG.value
    if _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    elif _DISTRIBUTED.value:
        jax.distributed.initialize()
    first = jax.process_index() == 0
    _set_logging(logging.INFO if first else logging.WARNING)
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{training.run_name(config)}_seed{config.seed}")
    _log.info("workdir: %s", workdir)
    _set_compilation_cache(config.run.compilation_cache, workdir)

    started = time.monotonic()
    experiment = training.make_experiment(config, jax.device_count())
    training.claim_workdir(workdir, experiment, write=first)
    options = training.cpu_compiler_options()
    measured_on = data.load(
        config.data.name,
        config.sweep.split,
        data_dir=config.data.dir or None,
        holdout=config.data.holdout,
    )
    evaluate = _make_evaluate(experiment, measured_on, options)
    state = training.train(experiment, workdir, evaluate=evaluate, eval_split=config.sweep.split)
    trained_s = time.monotonic() - started

    started = time.monotonic()
    step, variables = int(training.unreplicate(state.step)), state.variables
    if config.sweep.checkpoint == "best":
        run = training.load_run(workdir, "best")
        step, variables = run.step, training.replicate(run.variables)
    ladder = experiment.ladder
    if config.sweep.depths:
        ladder = ladder.subset(config.sweep.depths)
    sweep = evaluation.Sweep(
        experiment.model,
        ladder.skip_masks,
        measured_on,
        batch_size=config.sweep.batch_size,
        examples=config.sweep.examples,
        compiler_options=options,
    )
    _log.info("sweeping %d configurations on %s", len(ladder), config.sweep.split)
    counts = sweep(variables)
    if not first:
        return
    base, blocks = evaluation.unit_costs(
        experiment.model, training.unreplicate(variables), experiment.image_shape
    )
    provenance = {
        "name": training.run_name(config),
        "scheme": config.scheme,
        "full_probability": config.policy.full_probability,
        "dataset": config.data.name,
        "split": config.sweep.split,
        "seed": config.seed,
        "step": step,
        "total_steps": experiment.total_steps,
        "precision": "float32",  # of the parameters: what size_bytes counts
        "config": training.to_jsonable(config),
        "versions": training.versions(),
    }
    table = evaluation.make_table(ladder, counts, base, blocks, provenance)
    paths = table.write(workdir)
    bits = config.sweep.bits_per_parameter
    picture = evaluation.draw_error_vs_size(
        [evaluation.average_seeds(training.run_name(config), [table], bits)],
        workdir / "error_vs_size.png",
        title=f"{config.name} on {config.data.name} ({config.sweep.split})",
        axis=f"{bits} bits a parameter" if bits else "float32",
    )
    swept_s = time.monotonic() - started
    print(_summary(table))
    print(f"trained to step {step} ({trained_s:.0f} s now), swept in {swept_s:.0f} s")
    print("\n".join(f"  {path}" for path in (*paths, picture)))


class _BesideTheBar(logging.Handler):
    """Writes log lines above the progress bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(self.format(record), file=sys.stderr)


def _set_logging(level: int) -> None:
    """Shows this package's lines; those of its libraries go through absl, warnings only."""
    handler = _BesideTheBar()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    _log.handlers, _log.propagate = [handler], False
    _log.setLevel(level)


def _set_compilation_cache(folder: str, workdir: pathlib.Path) -> None:
    """Keeps compiled programs on disk, so that a run that goes on does not compile again."""
    if folder == "off":
        return
    path = pathlib.Path(folder) if folder else workdir / "compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(path.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _make_evaluate(experiment, dataset, compiler_options) -> training.loop.Evaluate:
    """An evaluation for the middle of training: a few configurations that training draws.

    The "error" by which the best checkpoint is chosen is the policy's: the full model's error with
    its probability, and with the rest the mean over the smaller ones.
    """
    drawn = sorted(experiment.policy.drawn)
    count = min(5, len(drawn))
    chosen = sorted({drawn[round(i * (len(drawn) - 1) / max(count - 1, 1))] for i in range(count)})
    configurations = [experiment.ladder[index] for index in chosen]
    sweep = None

    def evaluate(variables):
        nonlocal sweep
        sweep = sweep or evaluation.Sweep(
            experiment.model,
            tuple(each.skip_mask for each in configurations),
            dataset,
            batch_size=experiment.config.sweep.batch_size,
            examples=experiment.config.run.eval_examples,
            compiler_options=compiler_options,
        )
        counts = sweep(variables)
        errors = counts.errors / counts.examples
        full = experiment.policy.probabilities[-1]
        smaller = errors[:-1].mean() if len(errors) > 1 else errors[-1]
        by_depth = {
            f"error_depth_{each.depth}": float(error)
            for each, error in zip(configurations, errors, strict=True)
        }
        return {"error": float(full * errors[-1] + (1 - full) * smaller), **by_depth}

    return evaluate


def _summary(table) -> str:
    """The rows worth sending, as text."""
    lines = ["", "blocks  stages      Mbit   bytes  MMACs  top-1 error (95 % interval)"]
    for row in table.pareto():
        stages = "/".join(map(str, row.stage_blocks))
        lines.append(
            f"{row.depth:6d}  {stages:10s}{row.mbit:6.2f}  {row.share_of_bytes:5.1%} "
            f"{row.macs / 1e6:6.1f}  {row.top1_error:6.2%}"
            f"  ({row.error_low:.2%} to {row.error_high:.2%})"
        )
    return "\n".join(lines)


def run(argv: list[str] | None = None) -> None:
    """Runs `main` with errors a person can act on in place of tracebacks."""
    flags.mark_flag_as_required("config")

    def guarded(arguments: list[str]) -> None:
        try:
            main(arguments)
        except training.Preempted as stopped:
            print(f"saved at step {stopped.step}; the same command goes on from there")
        except (
            ValueError,
            FileNotFoundError,
            training.CheckpointError,
            training.DivergedError,
            data.DatasetUnavailableError,
        ) as error:
            _log.debug("traceback", exc_info=True)
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded, argv=argv, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a field that the config lacks is told in words."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:  # as ml_collections refuses a field
        reason: BaseException | str = error
        while isinstance(reason, BaseException):  # one may be wrapped in another
            reason = reason.args[0] if reason.args else repr(reason)
        fields = " ".join(each for each in argv if each.startswith("--config."))
        print(f"error: no such config field in {fields}: {reason}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
