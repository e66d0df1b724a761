"""The rivals that need training: what each is, and how a trained one lies on the disk."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from accordion_jax import models
from accordion_jax.system.files import read_json, write_json, write_whole
from benchmarks.compositions.forms import (
    Factored,
    Flat,
    Form,
    Pruned,
    Quantised,
    Whole,
    form_of,
    unflatten,
)


@dataclasses.dataclass(frozen=True)
class Rival:
    """One network to train.

    Attributes:
      name: of its files.
      form: of its parameters.
      learning_rate: the largest, for batches of 128.
      distillation: share of the teacher's soft labels in the loss.
      stage_sizes: of a network of its own, trained from the start; empty: it begins with the source
        network's weights.
      channels: likewise.
      kept: blocks a stage of a network that begins with the first blocks of the source's stages;
        empty: with all of them.
    """

    name: str
    form: Form
    learning_rate: float
    distillation: float
    stage_sizes: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


def rivals(distillation: float) -> list[Rival]:
    """Returns all rivals, those first that matter most.

    Learning rates are usual ones: from the start 0.1 (He et al. 2016); to mend what pruning or a
    low rank has broken half of that, since rates near the first ones mend more than small ones
    (Renda et al. 2020, arXiv:2003.02389); for quantisation 0.02, as it changes less.

    Args:
      distillation: share of the teacher's soft labels in the loss of all but the small networks
        that are named alone.
    """
    tuned = [
        Rival("pruned-75", Pruned(0.75), 0.05, distillation),
        Rival("quantised-4", Quantised(4), 0.02, distillation),
        Rival("quantised-2", Quantised(2), 0.04, distillation),
        Rival("spatial-1/2", Factored("spatial", 1 / 2), 0.05, distillation),
        Rival("quantised-3", Quantised(3), 0.02, distillation),
        Rival("pruned-90", Pruned(0.9), 0.05, distillation),
        Rival("spatial-1/4", Factored("spatial", 1 / 4), 0.05, distillation),
        Rival("channel-1/4", Factored("channel", 1 / 4), 0.05, distillation),
        Rival("pruned-50", Pruned(0.5), 0.05, distillation),
        Rival("spatial-3/4", Factored("spatial", 3 / 4), 0.05, distillation),
    ]
    small = {
        "resnet8": ((1, 1, 1), (16, 32, 64)),
        "resnet14": ((2, 2, 2), (16, 32, 64)),
        "resnet20-narrow": ((3, 3, 3), (8, 16, 32)),
    }
    distilled = [
        Rival(f"{name}-distilled", Whole(), 0.1, distillation, *sizes)
        for name, sizes in small.items()
    ]
    # What a network of fewer blocks begins with saves most of its training.
    kept = [
        Rival("resnet14-kept", Whole(), 0.05, distillation, kept=(2, 2, 2)),
        Rival("resnet8-kept", Whole(), 0.05, distillation, kept=(1, 1, 1)),
    ]
    alone = [Rival(name, Whole(), 0.1, 0.0, *sizes) for name, sizes in small.items()]
    return [*tuned[:4], *distilled, *tuned[4:], *kept, *alone]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A rival, trained.

    Attributes:
      row: what it is and how it was trained; see `save`.
      params: of its form.
      fixed: of its form.
      statistics: running statistics of the network.
    """

    row: Mapping[str, Any]
    params: Flat
    fixed: Flat
    statistics: Flat

    @property
    def form(self) -> Form:
        """Of its parameters."""
        return form_of(self.row["form"])

    @property
    def model(self) -> models.Network:
        """The network that its parameters stand for."""
        return models.build(self.row["model"])

    @property
    def variables(self) -> dict[str, Any]:
        """Of the network, NumPy arrays: what its `apply` takes."""
        network = self.form.network(self.params, self.fixed)
        flat = {path: np.asarray(x) for path, x in network.items()}
        return {"params": unflatten(flat), "batch_stats": unflatten(self.statistics)}


_GROUPS = ("params", "fixed", "statistics")


def result_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns where the row of a rival lies; its arrays lie beside it."""
    return folder / f"{name.replace('/', 'of')}.json"


def save(folder: pathlib.Path, trained: Trained) -> None:
    """Writes the arrays, then the row that says that they are whole.

    Args:
      folder: made where it does not exist.
      trained: its row has at least ``name``, ``form`` and ``model``, JSON-able.
    """
    arrays = {
        f"{group}:{path}": np.asarray(x, order="C")
        for group in _GROUPS
        for path, x in getattr(trained, group).items()
    }
    path = result_path(folder, trained.row["name"])
    write_whole(path.with_suffix(".safetensors"), safetensors.numpy.save(arrays))
    write_json(path, trained.row)


def load(path: pathlib.Path) -> Trained:
    """Returns the rival of a row's file.

    Raises:
      ValueError: a file is damaged or missing; names it.
    """
    row = read_json(path)
    arrays = path.with_suffix(".safetensors")
    try:
        flat = safetensors.numpy.load_file(arrays)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{arrays} cannot be read ({error}); delete {path} and train it again"
        ) from error
    groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    for name, x in flat.items():
        group, _, tensor = name.partition(":")
        groups[group][tensor] = x
    return Trained(row, **groups)
