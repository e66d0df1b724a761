"""A network whose answers another learns from: distillation from outside of the run.

Hinton et al. 2015 (arXiv:1503.02531). It may be any trained network for the same inputs and
classes: deeper or wider than the one that learns, or the same before something was taken from it.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax
import jax

from accordion_jax import models
from accordion_jax.training.state import Tree
from accordion_jax.training.trained import load_run


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network, in use: it computes with its running statistics.

    Attributes:
      model: Linen module.
      variables: {"params": ..., "batch_stats": ...}.
    """

    model: models.Network
    variables: Mapping[str, Tree]

    def answers(self, variables: Mapping[str, Tree], inputs: Any) -> jax.Array:
        """Returns what it answers at its full depth, [batch, ..., num_classes] float32.

        Args:
          variables: as the attribute, on the devices.
          inputs: [batch, ...], prepared.
        """
        return self.model.apply(variables, inputs)

    def check(self, pupil: models.Network, example: Any, source: str | os.PathLike) -> "Teacher":
        """Returns itself, if it answers what the pupil is asked.

        Args:
          pupil: that learns from it.
          example: tree of shapes and types, [1, ...], as `state.example_spec` gives it.
          source: where it is from.

        Raises:
          ValueError: it does not take such inputs, or has other classes; says which.
        """
        where = f"config.train.teacher={os.fspath(source)!r}"
        try:
            jax.eval_shape(self.answers, self.variables, example)
        except (TypeError, ValueError, flax.errors.FlaxError) as error:
            raise ValueError(
                f"{where} is a network for other inputs ({str(error).splitlines()[0]}); wanted "
                "one that was trained on a data set with the same"
            ) from error
        if self.model.num_classes != pupil.num_classes:
            raise ValueError(
                f"{where} has {self.model.num_classes} classes, and this run "
                f"{pupil.num_classes}; wanted a network that was trained on the same classes"
            )
        return self


def teacher_of_run(workdir: str | os.PathLike) -> Teacher:
    """Returns the network of a run's latest checkpoint.

    Raises:
      FileNotFoundError, ValueError, CheckpointError: as `trained.load_run`.
    """
    run = load_run(workdir)
    return Teacher(run.model, run.variables)
