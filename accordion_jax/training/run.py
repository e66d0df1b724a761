"""A run on disk: claims its workdir for an experiment, and reads it back."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from accordion_jax import models, tasks
from accordion_jax.depth import Ladder, LookupTable, make_ladder
from accordion_jax.runs import config as config_lib
from accordion_jax.runs import stored_config
from accordion_jax.runs.folder import CHECKPOINTS, CONFIG_FILE, MODEL_FILE, POLICY_FILE
from accordion_jax.system.files import read_json, write_json
from accordion_jax.training.checkpoints import CheckpointError, Checkpoints
from accordion_jax.training.experiment import Experiment, objective_arguments
from accordion_jax.training.objective import objective_state
from accordion_jax.training.optimizer import make_optimizer
from accordion_jax.training.state import Tree, example_spec, state_shapes

_VERSIONS = ("accordion_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions and the hardware that a run was made with."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    devices = jax.devices()
    return found | {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "platform": platform.platform(),
        "cpu_cores": str(os.cpu_count()),
    }


def provenance(experiment: Experiment, step: int) -> dict[str, Any]:
    """Returns what a table says of the run it was measured on, as JSON-able values.

    Args:
      experiment: of the run.
      step: of the checkpoint that was measured.
    """
    config = experiment.config
    return {
        "name": config_lib.run_name(config),
        "scheme": config.scheme,
        "full_probability": experiment.policy.probabilities[-1],
        "policy": {"name": config.policy.name, "digest": experiment.policy.describe()["digest"]},
        "objective": {
            "name": config.objective.name,
            **config_lib.to_jsonable(ml_collections.ConfigDict(objective_arguments(config))),
        },
        "dataset": config.data.name,
        "split": config.sweep.split,
        "seed": config.seed,
        "step": step,
        "total_steps": experiment.total_steps,
        "task": experiment.task.kind,
        "error_name": experiment.task.error_name,
        "precision": "float32",  # of the parameters: what size_bytes counts
        "config": config_lib.to_jsonable(config),
        "versions": versions(),
    }


def claim_workdir(workdir: str | os.PathLike, experiment: Experiment, *, write: bool) -> None:
    """Writes what makes the experiment again, or checks what is there.

    That is the resolved config, the network's description, and the policy with what it was made of.

    Args:
      workdir: of the run; made where it does not exist.
      experiment: that wants it.
      write: False only checks, as on all processes but the first.

    Raises:
      ValueError: another experiment ran there, names each field that differs; or its files are
        damaged.
    """
    workdir = pathlib.Path(workdir)
    asked = config_lib.to_jsonable(experiment.config)
    path = workdir / CONFIG_FILE
    policy = experiment.policy.describe()
    if path.exists():
        differing = stored_config.differences(_section(path, "config"), asked)
        there = read_json(workdir / POLICY_FILE).get("digest")
        if not differing and there not in (None, policy["digest"]):
            differing = [f"what the policy was made of: {there} -> {policy['digest']}"]
        stored_config.refuse_another(workdir, differing, "--workdir")
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, {"config": asked, "versions": versions()})
        write_json(workdir / MODEL_FILE, experiment.description)
        write_json(workdir / POLICY_FILE, policy)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, read back from its workdir.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays, one sub-tree a unit.
      model: Linen module.
      description: what `models.build` needs, and the task of its inputs.
      ladder: of its scheme.
      step: of the checkpoint.
      config: as it was resolved.
    """

    variables: dict[str, Tree]
    model: models.Network
    description: dict[str, Any]
    ladder: Ladder
    step: int
    config: ml_collections.ConfigDict


def load_run(workdir: str | os.PathLike, which: str = "latest") -> Run:
    """Returns the run of a workdir, its data set not needed.

    Args:
      workdir: of a run of `accordion_jax.main`.
      which: checkpoint, "latest" or "best".

    Raises:
      FileNotFoundError: the workdir has no run; names the file that is missing.
      ValueError: a file of the run is damaged; names it.
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    workdir = pathlib.Path(workdir)
    config = stored_config.from_jsonable(_section(workdir / CONFIG_FILE, "config"))
    description = _there(workdir / MODEL_FILE)
    try:
        model = models.build(description, dtype=jnp.dtype(config.model.dtype))
        task = tasks.from_description(_section(workdir / MODEL_FILE, "input"))
    except ValueError as error:
        raise ValueError(f"{workdir / MODEL_FILE} describes no network: {error}") from error
    ladder = make_ladder(config.scheme, model.stage_sizes)
    like = state_shapes(model, make_optimizer(config), example_spec(task))
    like = like._replace(objective=objective_state(config.objective.name, ladder))
    checkpoints = Checkpoints(workdir / CHECKPOINTS, read_only=True)
    try:
        step = checkpoints.best if which == "best" else checkpoints.latest
        if step is None:
            first = (
                "train it with config.run.eval_every_epochs above 0, or take the latest"
                if which == "best"
                else "train it first"
            )
            raise CheckpointError(f"{workdir} has no {which} checkpoint; {first}")
        state = checkpoints.restore(step, like)
    finally:
        checkpoints.close()
    return Run(state.variables, model, description, ladder, step, config)


def load_measured_run(workdir: str | os.PathLike, table: LookupTable) -> Run:
    """Returns the run of a workdir at the checkpoint that its look-up table was measured on.

    Raises:
      ValueError: neither the latest nor the best checkpoint is of that step; names them.
      FileNotFoundError, CheckpointError: as `load_run`.
    """
    wanted = table.provenance.get("step")
    runs = [load_run(workdir)]
    if runs[0].step != wanted:
        with contextlib.suppress(CheckpointError):  # where none was evaluated, none is the best
            runs.append(load_run(workdir, "best"))
    if runs[-1].step == wanted:
        return runs[-1]
    steps = [run.step for run in runs]
    raise ValueError(
        f"the look-up table of {workdir} was measured at step {wanted}; its checkpoints are of "
        f"steps {steps}: run accordion_jax.main on it again, which sweeps and writes a new table"
    )


def _there(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object of a file that every run has."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give the run's own command, python -m accordion_jax.main "
            f"--config=FILE --workdir={path.parent}: it writes that file"
        )
    return read_json(path)


def _section(path: pathlib.Path, name: str) -> dict[str, Any]:
    """An object within it."""
    found = _there(path).get(name)
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is damaged: it has no object {name!r}; mend it, or move it away "
            "and give the run's own command again"
        )
    return found
