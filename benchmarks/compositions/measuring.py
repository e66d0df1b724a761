"""Errors of networks on a data set, each measured once: what was measured is kept in a file."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from accordion_jax import models
from accordion_jax.system.files import read_json, write_json
from benchmarks.compositions.fitting import Judge
from benchmarks.compositions.forms import flatten


class Measured:
    """The errors of networks, by their weights."""

    def __init__(self, judge: Judge, path: pathlib.Path):
        """Reads what is known.

        Args:
          judge: of the data set.
          path: of the file, JSON; of this data set alone.
        """
        self.judge, self._path = judge, path
        self._known = read_json(path)

    def __call__(
        self,
        model: models.Network,
        variables: Mapping[str, Any],
        skip_masks: tuple[tuple[bool, ...], ...] = (),
    ) -> list[float]:
        """Returns the share of wrong answers: of the network, or under each mask.

        Args:
          model: of the variables.
          variables: NumPy arrays.
          skip_masks: of a network of any depth.
        """
        key = _digest(model, variables, skip_masks, self.judge.examples)
        if key not in self._known:
            outputs = self.judge.outputs(model, variables, skip_masks)
            wrong = self.judge.wrong(outputs)
            self._known[key] = np.atleast_1d(wrong.mean(-1)).tolist()
            write_json(self._path, self._known)
        return self._known[key]


def _digest(*what: Any) -> str:
    digest = hashlib.sha256()
    for each in what:
        if not isinstance(each, Mapping):
            described = models.describe(each) if isinstance(each, models.Network) else each
            digest.update(repr(described).encode())
            continue
        for path, array in sorted(flatten(jax.tree.map(np.asarray, dict(each))).items()):
            digest.update(f"{path} {array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()
