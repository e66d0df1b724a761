"""Trains what a plain network is compared with: pruned, factored, quantised and small networks.

    python -m benchmarks.compositions.train --run=PLAIN_RUN --out=FOLDER [--epochs=15]

The run is one of `accordion_jax.main` with scheme ``resnet``: a network trained whole. It is where
pruned, factored and quantised ones begin, and the teacher of all. Each rival leaves its weights and
a JSON row in the folder; those that are there are not trained again. What is left is chosen on
training images that are held out: the test set is for `benchmarks.compositions.table`.

With ``--budget_s`` all trainings are shortened alike so that they end in that time: a few steps of
each are timed first.

Time on two CPU cores: nine hours for ResNet-20 on CIFAR-10. A GPU that trains 40,000 images a
second needs five minutes.
"""

import dataclasses
import fnmatch
import functools
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from accordion_jax import data, models, training
from accordion_jax.system import command
from accordion_jax.training.state import example_spec
from benchmarks.compositions.fitting import Judge, Schedule, Setting, Trainer
from benchmarks.compositions.forms import Flat, describe, flatten, unflatten
from benchmarks.compositions.rivals import Rival, Trained, result_path, rivals, save
from benchmarks.options import ONLY, OUT, RUN, run

_log = logging.getLogger("accordion_jax")

_EPOCHS = flags.DEFINE_float("epochs", 15.0, "Of what begins with the run's weights.", 0.0)
_SCRATCH_EPOCHS = flags.DEFINE_float(
    "scratch_epochs", None, "Of what is trained from the start; twice --epochs by default.", 0.0
)
_BUDGET_S = flags.DEFINE_float(
    "budget_s", 0.0, "Seconds for all trainings, compilations apart; 0: as long as it takes.", 0.0
)
_BATCH = flags.DEFINE_integer("batch", 256, "Images a step.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_RATES = flags.DEFINE_list(
    "rates", ["1"], "Factors of the learning rates; each is a training, named NAME@FACTOR."
)
_DISTILLATION = flags.DEFINE_float("distillation", 0.9, "Share of the teacher's labels.", 0.0, 1.0)
_TEMPERATURE = flags.DEFINE_float("temperature", 4.0, "Of the teacher's labels.", 0.01)
_SEED = flags.DEFINE_integer("seed", 0, "Of the trainings.")
_HOLDOUT = flags.DEFINE_integer("holdout", 5000, "Training images to choose on; not trained on.")
_EXAMPLES = flags.DEFINE_integer("examples", 0, "Training images, to try the command; 0: all.", 0)


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
      name: of its files.
      rival: what is trained.
      model: that computes in the wanted type.
      params: of the form, to begin with.
      fixed: of the form.
      statistics: of the network, to begin with.
      schedule: as wished, with no regard to time.
    """

    name: str
    rival: Rival
    model: models.Network
    params: Flat
    fixed: Flat
    statistics: Flat
    schedule: Schedule

    @property
    def start(self) -> tuple[models.Network, Any, Flat, Flat, Flat]:
        """What `Trainer` takes."""
        return self.model, self.rival.form.network, self.params, self.fixed, self.statistics

    @property
    def variables(self) -> dict[str, Any]:
        """Of the network, to begin with."""
        network = self.rival.form.network(self.params, self.fixed)
        return {"params": unflatten(network), "batch_stats": unflatten(self.statistics)}


def make_jobs(
    wanted: Sequence[Rival], source: training.Run, setting: Setting, factors: Sequence[str]
) -> list[Job]:
    """Returns the trainings of rivals at each factor of their learning rates, the first's first.

    Args:
      wanted: rivals.
      source: run of the plain network.
      setting: of all.
      factors: of the learning rates, as text.
    """
    scratch = _SCRATCH_EPOCHS.value
    scratch = 2 * _EPOCHS.value if scratch is None else scratch
    jobs = []
    for factor in factors:
        for rival in wanted:
            model, variables = begin(rival, source, setting)
            params, fixed = rival.form.begin(flatten(variables["params"]))
            schedule = Schedule(
                learning_rate=rival.learning_rate * float(factor),
                epochs=scratch if rival.stage_sizes else _EPOCHS.value,
                warmup_share=0.1 if rival.stage_sizes else 0.05,
                weight_decay=float(source.config.optimizer.weight_decay),
                distillation=rival.distillation,
                temperature=_TEMPERATURE.value,
            )
            statistics = flatten(variables["batch_stats"])
            name = rival.name if factor == "1" else f"{rival.name}@{factor}"
            jobs.append(Job(name, rival, model, params, fixed, statistics, schedule))
    return jobs


def begin(
    rival: Rival, source: training.Run, setting: Setting
) -> tuple[models.Network, Mapping[str, Any]]:
    """Returns a rival's network, computing in the wanted type, and what it begins with.

    Args:
      rival: what is trained.
      source: run of the plain network.
      setting: of all.
    """
    arguments = dict(source.description["arguments"])
    if rival.stage_sizes:
        arguments |= {"stage_sizes": list(rival.stage_sizes), "channels": list(rival.channels)}
    elif rival.kept:
        arguments["stage_sizes"] = list(rival.kept)
    description = {"family": source.description["family"], "arguments": arguments}
    model = models.build(description, dtype=jnp.dtype(_DTYPE.value))
    if rival.stage_sizes:
        return model, first_variables(model, setting)
    units = (*model.base_names, *model.block_names)
    return model, {
        collection: {unit: tree[unit] for unit in units if unit in tree}
        for collection, tree in source.variables.items()
    }


def first_variables(model: models.Network, setting: Setting) -> dict[str, Any]:
    """Returns a network's variables before training, NumPy arrays: a function of the seed."""
    spec = example_spec(setting.task)
    key = jax.random.fold_in(jax.random.key(setting.seed), 1)
    made = jax.jit(lambda key: model.init(key, jnp.zeros(spec.shape, spec.dtype)))(key)
    return jax.tree.map(np.asarray, dict(made))


def share_of_budget(seconds: float, budget_s: float) -> float:
    """Returns by what all trainings are to be shortened, 0 to 1; 1 where there is no budget."""
    return min(1.0, budget_s / seconds) if budget_s else 1.0


def main() -> None:
    """Trains what is missing."""
    if not RUN.value or not OUT.value:
        raise ValueError("give --run=FOLDER of a plain network's run, and --out=FOLDER")
    command.show_log()
    started, out = time.monotonic(), pathlib.Path(OUT.value)
    source = training.load_run(RUN.value)
    wanted = [
        rival
        for rival in rivals(_DISTILLATION.value)
        if any(fnmatch.fnmatch(rival.name, pattern) for pattern in ONLY.value)
    ]
    if not wanted:
        names = ", ".join(rival.name for rival in rivals(_DISTILLATION.value))
        raise ValueError(f"--only={','.join(ONLY.value)} fits no rival; there are {names}")
    setting, held_out = _setting(source)
    judge = Judge(held_out, setting.task)
    jobs = [
        job
        for job in make_jobs(wanted, source, setting, _RATES.value)
        if not result_path(out, job.name).exists()
    ]
    trainer = Trainer(setting)
    _log.info("data and run read in %.0f s; %d trainings", time.monotonic() - started, len(jobs))
    started = time.monotonic()
    judged = {_in_float32(job.model): job.variables for job in jobs}
    judged[_in_float32(source.model)] = source.variables
    trainer.compile(
        [job.start for job in jobs],
        [functools.partial(judge, *each) for each in judged.items()],
    )
    plain = judge(_in_float32(source.model), source.variables) / judge.examples
    _log.info(
        "compiled in %.0f s; error of the plain network %.4f on %d held-out images",
        *(time.monotonic() - started, plain, judge.examples),
    )
    share = _shorten(trainer, jobs) if jobs else 1.0
    common = {
        "source": {"error_held_out": plain, "step": source.step, "run": str(RUN.value)},
        "seed": setting.seed,
        "batch": setting.batch_size,
        "dtype": _DTYPE.value,
        "train_images": len(setting.train),
        "held_out_images": judge.examples,
        "versions": training.versions(),
    }
    failed = []
    for number, job in enumerate(jobs, 1):
        # Time on an accelerator is dear: what fails must not keep the others from being trained.
        try:
            row = _train(trainer, judge, job, share, common, out)
        except Exception:
            _log.exception("%s failed", job.name)
            failed.append(job.name)
            continue
        _log.info(
            "%d/%d %s: %.1f epochs in %.0f s, error %.4f on held-out images",
            *(number, len(jobs), job.name, row["epochs"], row["seconds"], row["error_held_out"]),
        )
    if failed:
        raise RuntimeError(f"{len(failed)} trainings failed: {', '.join(failed)}; the log says why")
    print(f"{len(jobs)} trained now; all rows are in {out}")


def _setting(source: training.Run) -> tuple[Setting, data.Dataset]:
    config = source.config
    train, held_out = (
        data.load(config.data.name, split, data_dir=config.data.dir or None, holdout=_HOLDOUT.value)
        for split in ("train", "validation")
    )
    if _EXAMPLES.value:
        train = train.select(np.arange(min(_EXAMPLES.value, len(train))))
    if _BATCH.value > len(train):
        raise ValueError(f"--batch={_BATCH.value} is more than the {len(train)} training images")
    task = train.task.with_augmentation(pad=config.data.pad, flip=config.data.flip)
    teacher = models.build(
        {name: source.description[name] for name in ("family", "arguments")},
        dtype=jnp.dtype(_DTYPE.value),
    )
    setting = Setting(train, task, teacher, source.variables, _BATCH.value, _SEED.value)
    return setting, held_out


def _in_float32(model: models.Network) -> models.Network:
    """The same network, computing in float32."""
    return models.build(models.describe(model))


def _shorten(trainer: Trainer, jobs: Sequence[Job]) -> float:
    """By what all trainings are shortened; says how long they are to take."""
    per_epoch = trainer.setting.steps_per_epoch
    seconds = sum(
        trainer.seconds_a_step(*job.start) * per_epoch * job.schedule.epochs for job in jobs
    )
    share = share_of_budget(seconds, _BUDGET_S.value)
    _log.info("about %.0f s to train; shortened to %.0f %% of it", seconds, 100 * share)
    return share


def _train(
    trainer: Trainer,
    judge: Judge,
    job: Job,
    share: float,
    common: dict[str, Any],
    out: pathlib.Path,
) -> dict[str, Any]:
    """Trains one rival, writes what came out, and returns its row."""
    schedule = dataclasses.replace(job.schedule, epochs=job.schedule.epochs * share)
    started = time.perf_counter()
    params, statistics, loss = trainer.fit(*job.start, schedule)
    seconds = time.perf_counter() - started
    model = _in_float32(job.model)
    network = job.rival.form.network(params, job.fixed)
    variables = {"params": unflatten(network), "batch_stats": unflatten(statistics)}
    row = {
        "name": job.name,
        "rival": job.rival.name,
        "form": describe(job.rival.form),
        "model": models.describe(model),
        **dataclasses.asdict(schedule),
        "seconds": seconds,
        "loss": loss if np.isfinite(loss) else None,
        "error_held_out": judge(model, variables) / judge.examples,
        **common,
    }
    save(out, Trained(row, params, job.fixed, statistics))
    return row


if __name__ == "__main__":
    run(main)
