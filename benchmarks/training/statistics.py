"""What it costs that all configurations of a run share their batch-norm statistics.

    python -m benchmarks.training.statistics --workdir=runs/resnet20_blockcoml-05_seed0

Prints the error of each configuration with the statistics that training left, and with its own,
measured afterwards (`training.statistics`), on the run's split; and the bytes that its own take. In
a ladder of prefixes a block sees the same inputs at every depth, and there is nothing to gain; in
BlockCoML there is.

Time on two CPU cores: a minute for each configuration of a ResNet-20.
"""

from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from accordion_jax import data, evaluation, training
from accordion_jax.depth import Configuration, Ladder
from accordion_jax.system.command import CommandError
from accordion_jax.system.progress import progress
from accordion_jax.training.statistics import STEPS, own_statistics
from benchmarks import options
from benchmarks.report import Report

_WORKDIR = flags.DEFINE_string("workdir", "", "Of a trained run, whose latest checkpoint counts.")


def measure(
    workdir: str, steps: int, examples: int = 0
) -> Iterator[tuple[Configuration, float, float, int]]:
    """Yields of each configuration: its error with shared and with its own statistics, and bytes.

    Args:
      workdir: of the run; its latest checkpoint counts.
      steps: batches to measure statistics on.
      examples: to count errors on; 0 is all.
    """
    trained = training.load_run(workdir)
    config, variables = trained.config, trained.variables
    experiment = training.make_experiment(config, jax.device_count())
    where = {"data_dir": config.data.dir or None, "holdout": config.data.holdout}
    measured_on = data.load(config.data.name, config.sweep.split, **where)
    for configuration in progress_of(trained.ladder):
        mask = configuration.skip_mask
        sweep = evaluation.Sweep(
            experiment.model,
            (mask,),
            measured_on,
            batch_size=config.sweep.batch_size,
            examples=examples,
            compiler_options=training.compiler_options(),
        )
        own = own_statistics(experiment, variables, mask, steps)
        both = [
            sweep(data.replicate(each))
            for each in (variables, variables | {"batch_stats": variables["batch_stats"] | own})
        ]
        shared, alone = (float(counts.errors[0] / counts.examples) for counts in both)
        own_bytes = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(own))
        yield configuration, shared, alone, own_bytes


def progress_of(ladder: Ladder) -> Iterator[Configuration]:
    """The configurations, with a bar."""
    with progress("configurations", len(ladder), unit="configuration") as bar:
        for done, configuration in enumerate(ladder, 1):
            yield configuration
            bar.update(done)


def main() -> None:
    """Measures and prints."""
    if not _WORKDIR.value:
        raise CommandError("--workdir is missing; give it the folder of a trained run")
    steps = f"{options.STEPS.value} batches"
    title = f"{_WORKDIR.value}: error with shared statistics and with its own, of {steps}"
    with Report(title, options.JSON.value) as report:
        rows = list(measure(_WORKDIR.value, options.STEPS.value))
        report.table({"configuration": "", "shared": ".2%", "its own": ".2%", "bytes": ",d"})
        for configuration, shared, own, own_bytes in rows:
            report.row(configuration.name, shared, own, own_bytes)


if __name__ == "__main__":
    options.run(main, steps=STEPS)
