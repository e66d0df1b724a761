"""Norms that were folded into the convolutions before them, as training knows them again.

A bundle of few bits has its batch norms folded (`delivery.bundle.folding`): each is a bias, and its
mean is 0, its variance 1. Training normalises with the statistics of the batch, and would make
another function of such a network. So the statistics of what each norm is given are measured, and
scale and bias are changed such that the function stays the one it was.

A kernel that a norm was folded into has taken up that norm's scale. That is free, since the norm
takes back whatever scale it is given, but it decides how far a step of some learning rate turns the
kernel: in the ResNet-20 of the repository, folded kernels are from a sixteenth to six times as
large as a fresh network's, and a rate that suits some ruins others. So each kernel gets the size
that it has in a fresh network, which learning rates are made for.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from accordion_jax import data, models, tasks
from accordion_jax.models.norm import BatchNorm
from accordion_jax.training.state import Tree

_IMAGES = 2000
_BATCH = 250

Path = tuple[str, ...]


def unfold_norms(
    model: models.Network,
    variables: Mapping[str, Tree],
    task: tasks.Task,
    train: data.Dataset,
    key: jax.Array,
    fresh: Mapping[str, Tree],
) -> dict[str, Tree]:
    """Returns variables with the same outputs, whose norms have the statistics of their inputs.

    Those of the first 2,000 examples of an order, augmented as in training. Norms that have
    statistics of their own already stay as they are. A kernel belongs to the norm of its name,
    ``conv1`` to ``norm1``, as in `delivery.bundle.folding`.

    Args:
      model: Linen module.
      variables: {"params": ..., "batch_stats": ...}, NumPy; unchanged.
      task: of the examples, with its augmentation.
      train: to measure on.
      key: of order and augmentation.
      fresh: parameters of the network as training would begin without these.
    """
    folded = _folded(variables["batch_stats"])
    if not folded:
        return dict(variables)
    seen = _measured(model, variables, task, train, key)
    params, statistics = _copy(variables["params"]), _copy(variables["batch_stats"])
    for path in folded:
        mean, var, epsilon = seen[path]
        size = _resized(params, fresh, path)
        norm, kept = _at(params, path), _at(statistics, path)
        # Before: x * factor + shift.
        factor = norm["scale"] / np.sqrt(kept["var"] + epsilon)
        shift = norm["bias"] - kept["mean"] * factor
        norm |= {
            "scale": np.float32(factor / size * np.sqrt(size * size * var + epsilon)),
            "bias": np.float32(shift + mean * factor),
        }
        kept |= {"mean": np.float32(size * mean), "var": np.float32(size * size * var)}
    return {**variables, "params": params, "batch_stats": statistics}


def _resized(params: Tree, fresh: Mapping[str, Tree], path: Path) -> float:
    """Gives the convolution before a norm the size of a fresh one; returns how much larger it is.

    Args:
      params: whose convolution is replaced.
      fresh: of the size that is wanted.
      path: of the norm.
    """
    conv = path[-1].replace("norm", "conv")
    below = _at(params, path[:-1]).get(conv)
    if conv == path[-1] or not isinstance(below, Mapping) or "kernel" not in below:
        return 1.0
    had, wanted = (
        float(np.linalg.norm(np.asarray(_at(tree, (*path[:-1], conv))["kernel"], np.float64)))
        for tree in (params, fresh)
    )
    if not had or not wanted:
        return 1.0
    size = wanted / had
    # What the convolution gives is as much larger, its own bias too.
    _at(params, path[:-1])[conv] = {name: np.float32(size * x) for name, x in below.items()}
    return size


def _folded(statistics: Mapping[str, Any], path: Path = ()) -> list[Path]:
    """Where the norms are whose mean is 0 and whose variance is 1."""
    if statistics.keys() == {"mean", "var"}:
        plain = not np.any(statistics["mean"]) and np.all(np.asarray(statistics["var"]) == 1)
        return [path] if plain else []
    found = (
        _folded(below, (*path, name))
        for name, below in statistics.items()
        if isinstance(below, Mapping)
    )
    return [each for several in found for each in several]


def _measured(
    model: models.Network,
    variables: Mapping[str, Tree],
    task: tasks.Task,
    train: data.Dataset,
    key: jax.Array,
) -> dict[Path, tuple[np.ndarray, np.ndarray, float]]:
    """Mean and variance of each channel that each norm is given, in use; and its epsilon."""
    batch = min(_BATCH, len(train))
    rounds = min(_IMAGES, len(train)) // batch
    epsilons: dict[Path, float] = {}
    # A family may apply its blocks as modules of their own, so that a norm does not know where it
    # is: it is known by its array.
    places = {
        id(leaf): tuple(entry.key for entry in path[:-1])
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    }

    def moments(inputs: Any, key: jax.Array) -> dict[Path, Any]:
        found: dict[Path, Any] = {}

        def look(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            module = context.module
            if isinstance(module, BatchNorm | nn.BatchNorm) and context.method_name == "__call__":
                path = places[id(module.get_variable("batch_stats", "mean"))]
                x = args[0].astype(jnp.float32).reshape(-1, args[0].shape[-1])
                found[path] = (x.mean(0), jnp.square(x).mean(0))
                epsilons[path] = module.epsilon
            return call(*args, **kwargs)

        x = task.prepare(task.augment(inputs, task.draw(key, batch)))
        with nn.intercept_methods(look):
            model.apply(variables, x)
        return found

    # Without a loop over blocks, in which what one sees cannot be told from what another sees.
    model = models.build(models.describe(model))
    totals = []
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), len(train)))
    for i in range(rounds):
        rows = order[i * batch : (i + 1) * batch]
        inputs = jax.tree.map(
            lambda x, spec, rows=rows: x[rows].reshape(batch, *spec.shape), train.rows, task.inputs
        )
        with jax.disable_jit():  # a family may compile its blocks apart, where nobody can look in
            totals.append(moments(inputs, jax.random.fold_in(key, 1 + i)))
    means = jax.tree.map(lambda *x: np.mean(np.asarray(x, np.float64), axis=0), *totals)
    return {
        path: (mean, np.maximum(square - mean * mean, 0.0), epsilons[path])
        for path, (mean, square) in means.items()
    }


def _copy(tree: Any) -> Any:
    return {k: _copy(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _at(tree: Any, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree
