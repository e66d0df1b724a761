"""Training: state, the pure step, its compiled variants, the loop, checkpoints."""

from accordion_jax.runs.config import run_name, to_jsonable
from accordion_jax.training.checkpoints import CheckpointError, Checkpoints
from accordion_jax.training.experiment import Experiment, make_experiment
from accordion_jax.training.loop import Preempted, train, train_together
from accordion_jax.training.metrics import read_metrics
from accordion_jax.training.objective import OBJECTIVES, Draw, single
from accordion_jax.training.run import claim_workdir, provenance, versions
from accordion_jax.training.state import TrainState, init_state
from accordion_jax.training.teacher import Teacher
from accordion_jax.training.together import Together
from accordion_jax.training.trained import Run, load_measured_run, load_run
from accordion_jax.training.variants import Variants, compiler_options
from accordion_jax.training.window import DivergedError

__all__ = [
    "OBJECTIVES",
    "CheckpointError",
    "Checkpoints",
    "DivergedError",
    "Draw",
    "Experiment",
    "Preempted",
    "Run",
    "Teacher",
    "Together",
    "TrainState",
    "Variants",
    "claim_workdir",
    "compiler_options",
    "init_state",
    "load_measured_run",
    "load_run",
    "make_experiment",
    "provenance",
    "read_metrics",
    "run_name",
    "single",
    "to_jsonable",
    "train",
    "train_together",
    "versions",
]
