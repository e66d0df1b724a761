"""What a run writes of itself: it claims its workdir, and tables say which run they are of."""

import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax
import ml_collections

from accordion_jax.runs import config as config_lib
from accordion_jax.runs import stored_config
from accordion_jax.runs.folder import CONFIG_FILE, MODEL_FILE, POLICY_FILE
from accordion_jax.system.files import read_json, write_json
from accordion_jax.training.experiment import Experiment, objective_arguments
from accordion_jax.training.trained import section

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
    fields = config_lib.to_jsonable(config)
    # A bundle publishes it: where this machine keeps its data and programs is no one else's.
    fields["data"]["dir"] = fields["run"]["compilation_cache"] = ""
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
        "config": fields,
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
        differing = stored_config.differences(section(path, "config"), asked)
        there = read_json(workdir / POLICY_FILE).get("digest")
        if not differing and there not in (None, policy["digest"]):
            differing = [f"what the policy was made of: {there} -> {policy['digest']}"]
        stored_config.refuse_another(workdir, differing, "--workdir")
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, {"config": asked, "versions": versions()})
        write_json(workdir / MODEL_FILE, experiment.description)
        write_json(workdir / POLICY_FILE, policy)
