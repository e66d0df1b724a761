"""Training: state, the pure step, its compiled variants, the loop, checkpoints."""

from accordion_jax.training.checkpoints import CheckpointError, Checkpoints
from accordion_jax.training.config import run_name, to_jsonable
from accordion_jax.training.experiment import (
    Experiment,
    Run,
    claim_workdir,
    load_run,
    make_experiment,
    versions,
)
from accordion_jax.training.loop import DivergedError, Preempted, train
from accordion_jax.training.metrics import progress, read_metrics
from accordion_jax.training.state import TrainState, init_state
from accordion_jax.training.variants import Variants, cpu_compiler_options

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "DivergedError",
    "Experiment",
    "Preempted",
    "Run",
    "TrainState",
    "Variants",
    "claim_workdir",
    "cpu_compiler_options",
    "init_state",
    "load_run",
    "make_experiment",
    "progress",
    "read_metrics",
    "run_name",
    "to_jsonable",
    "train",
    "versions",
]
