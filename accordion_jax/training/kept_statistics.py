"""Configurations' own statistics, measured after training and kept in the run's folder.

They are of the units that a configuration reaches on other inputs than the full model does: kept
blocks after a skipped one, and those of the base, which may come after blocks. In a ladder of
prefixes there are none.

There is a file a configuration, written whole or not at all, so that a run that was killed goes on
with the next one. It says of which weights it is and of how many batches; another is made anew.
"""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from accordion_jax.depth import Configuration, Ladder
from accordion_jax.models import Network
from accordion_jax.models.costs import unit_costs
from accordion_jax.runs.folder import OWN_STATISTICS
from accordion_jax.system.files import write_whole
from accordion_jax.system.progress import progress
from accordion_jax.training.experiment import Experiment
from accordion_jax.training.state import Tree
from accordion_jax.training.statistics import own_statistics

_MADE_OF = "made_of"


def check(experiment: Experiment, ladder: Ladder) -> None:
    """Does nothing where own statistics can be measured that ``config.sweep`` asks for.

    Args:
      experiment: of the run.
      ladder: of the configurations that will be swept.

    Raises:
      ValueError: the network keeps no statistics, no configuration needs its own, or they would
        make one larger than the next; says which, and what to do.
    """
    field = f"config.sweep.own_statistics={experiment.config.sweep.own_statistics}"
    statistics = experiment.shapes.batch_stats
    if not jax.tree.leaves(statistics):
        raise ValueError(
            f"{field}: the family {experiment.config.model.family!r} has no batch norm, whose "
            "statistics would be measured; set it to 0"
        )
    needing = [each for each in ladder if each.after_a_gap]
    if not needing:
        raise ValueError(
            f"{field}: no configuration of {', '.join(each.name for each in ladder)} keeps a block "
            "after a skipped one, so each block sees the same inputs in all of them, and the "
            "shared statistics are theirs; set it to 0"
        )
    base, blocks = unit_costs(
        experiment.model, experiment.shapes.variables, experiment.example_shape
    )
    sizes = [
        sum(blocks[i].size_bytes for i in each.blocks)
        + base.size_bytes
        + size_bytes(own_units(experiment.model, each, statistics))
        for each in ladder
    ]
    for (small, one), (large, other) in itertools.pairwise(zip(ladder, sizes, strict=True)):
        if one > other:
            raise ValueError(
                f"{field}: {small.name!r} would have {one} bytes with its own statistics, more "
                f"than the {other} of {large.name!r}; leave it out of config.sweep.depths, or set "
                "the field to 0"
            )


def own_units(model: Network, configuration: Configuration, statistics: Tree) -> dict[str, Tree]:
    """Returns what a configuration has of its own, of the statistics of its units.

    Args:
      model: names the units.
      configuration: of its ladder.
      statistics: unit -> statistics; arrays or their shapes.

    Returns:
      Unit -> statistics; empty where it needs none.
    """
    if not configuration.after_a_gap:
        return {}
    names = (*model.base_names, *(model.block_names[i] for i in configuration.after_a_gap))
    return {name: statistics[name] for name in names if jax.tree.leaves(statistics.get(name, {}))}


def size_bytes(own: Tree) -> int:
    """Returns the bytes of statistics; arrays or their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(own))


def measure_own(
    experiment: Experiment,
    variables: dict[str, Tree],
    ladder: Ladder,
    workdir: str | os.PathLike,
    *,
    write: bool,
) -> dict[str, dict[str, Tree]]:
    """Returns the own statistics of a run's configurations; measures those that are not kept yet.

    Args:
      experiment: of the run; its config says on how many batches.
      variables: of the checkpoint that is swept, on the host.
      ladder: of the configurations that are swept.
      workdir: of the run.
      write: False only reads, as on all processes but the first.

    Returns:
      Configuration -> unit -> statistics, NumPy, of the configurations that need any.
    """
    batches, weights = experiment.config.sweep.own_statistics, digest(variables)
    needing = [each for each in ladder if each.after_a_gap]
    found = {}
    with progress("measuring own statistics", len(needing), unit="configuration") as bar:
        for done, each in enumerate(needing, 1):
            own = _kept(workdir, each.name, weights, batches)
            if own is None:
                measured = own_statistics(experiment, variables, each.skip_mask, batches)
                own = own_units(experiment.model, each, measured)
                if write:
                    _keep(workdir, each.name, own, weights, batches)
            found[each.name] = own
            bar.update(done)
    return found


def read_own(
    workdir: str | os.PathLike, variables: Mapping[str, Tree], provenance: Mapping[str, Any]
) -> dict[str, dict[str, Tree]]:
    """Returns the own statistics that a run's look-up table was measured with.

    Args:
      workdir: of the run.
      variables: of the checkpoint that the table was measured on.
      provenance: of the table.

    Returns:
      As `measure_own`; empty where the table was measured with shared statistics.

    Raises:
      ValueError: a file is missing, damaged, or of other weights; names it.
    """
    facts = provenance.get("statistics")
    if facts is None:
        return {}
    weights, found = digest(variables), {}
    for name in facts["own"]:
        own = _kept(workdir, name, weights, facts["batches"])
        if own is None:
            raise ValueError(
                f"{_path(workdir, name)} is missing, damaged or of other weights than the look-up "
                "table, which was measured with these statistics; run accordion_jax.main on the "
                "run again, which measures them and writes a new table"
            )
        found[name] = own
    return found


def digest(variables: Mapping[str, Tree]) -> str:
    """Returns the SHA-256 of all that a network computes with: names, shapes and numbers."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _made_of(weights: str, batches: int) -> str:
    return f"{batches} batches through the weights {weights}"


def _path(workdir: str | os.PathLike, configuration: str) -> pathlib.Path:
    return pathlib.Path(workdir) / OWN_STATISTICS / f"{configuration}.safetensors"


def _keep(
    workdir: str | os.PathLike, name: str, own: Mapping[str, Tree], weights: str, batches: int
) -> None:
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(own))
    }
    # One entry: of several the library chooses the order.
    metadata = {_MADE_OF: _made_of(weights, batches)}
    write_whole(_path(workdir, name), safetensors.numpy.save(arrays, metadata))


def _kept(
    workdir: str | os.PathLike, name: str, weights: str, batches: int
) -> dict[str, Tree] | None:
    """Statistics that are kept; None where there are none of these weights and batches."""
    try:
        with safetensors.safe_open(_path(workdir, name), "numpy") as file:
            if (file.metadata() or {}).get(_MADE_OF) != _made_of(weights, batches):
                return None
            arrays = {path: file.get_tensor(path) for path in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):  # none, or damaged: it is made anew
        return None
    own: dict[str, Tree] = {}
    for path, array in sorted(arrays.items()):
        *parents, last = path.split("/")
        node = own
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return own
