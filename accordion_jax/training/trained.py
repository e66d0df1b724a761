"""A trained run, read back from its workdir."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from accordion_jax import models, tasks
from accordion_jax.depth import Ladder, LookupTable, make_ladder
from accordion_jax.runs import stored_config
from accordion_jax.runs.folder import CHECKPOINTS, CONFIG_FILE, MODEL_FILE
from accordion_jax.system.files import read_json
from accordion_jax.training.checkpoints import CheckpointError, Checkpoints
from accordion_jax.training.objective import objective_state
from accordion_jax.training.optimizer import make_optimizer
from accordion_jax.training.state import TrainState, Tree, example_spec, state_shapes


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
    config = stored_config.from_jsonable(section(workdir / CONFIG_FILE, "config"))
    description = _there(workdir / MODEL_FILE)
    try:
        model = models.build(description, dtype=jnp.dtype(config.model.dtype))
        task = tasks.from_description(section(workdir / MODEL_FILE, "input"))
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


def start_from(workdir: str | os.PathLike, state: TrainState, model: models.Network) -> TrainState:
    """Returns a state of the first step with the weights and statistics of a trained run.

    Args:
      workdir: of the run; its latest checkpoint counts.
      state: as it would begin; its step, momentum and objective stay.
      model: of the state.

    Raises:
      ValueError: as `start_with`.
      FileNotFoundError, CheckpointError: as `load_run`.
    """
    return start_with(load_run(workdir).variables, state, model, workdir)


def start_with(
    variables: Mapping[str, Tree],
    state: TrainState,
    model: models.Network,
    source: str | os.PathLike,
) -> TrainState:
    """Returns a state of the first step with given weights and statistics.

    Args:
      variables: {"params": ..., "batch_stats": ...}; those of a network that differs as far as
        the model's `adopt` allows, where it has that.
      state: as it would begin; its step, momentum and objective stay.
      model: of the state.
      source: where they are from.

    Raises:
      ValueError: they are of another network; names the first array that differs.
    """
    variables = getattr(model, "adopt", dict)(variables)
    there, here = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in each}
        for each in map(jax.tree_util.tree_leaves_with_path, (variables, state.variables))
    )
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"config.train.start_from={os.fspath(source)!r} is of another network: {name} is "
                f"{there.get(name, 'not in it')}, and {here.get(name, 'not in this one')} here; "
                "give config.model and config.data.name the values that it was trained with"
            )
    return state._replace(params=variables["params"], batch_stats=variables.get("batch_stats", {}))


def _there(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object of a file that every run has."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give the run's own command, python -m accordion_jax.main "
            f"--config=FILE --workdir={path.parent}: it writes that file"
        )
    return read_json(path)


def section(path: pathlib.Path, name: str) -> dict[str, Any]:
    """An object within it."""
    found = _there(path).get(name)
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is damaged: it has no object {name!r}; mend it, or move it away "
            "and give the run's own command again"
        )
    return found
