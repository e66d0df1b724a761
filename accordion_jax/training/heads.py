"""Own heads, fitted to what the network finds: a convex problem, which needs no training.

Where each block holds a head of its own, training moves it by the gradient of its configuration's
loss, whose weight may be a hundredth, against a weight decay that is not: it stays far from the
best head for its features. So it is fitted anew, as a logistic regression of the classes on what
the head is given (Alain and Bengio 2016, arXiv:1610.01644, call it a linear probe). The head of the
full depth stays: it has the most weight in training, and shares its features with nobody.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from accordion_jax import data, models, tasks
from accordion_jax.depth import Ladder
from accordion_jax.training.state import Tree

_IMAGES = 20_000
_BATCH = 500
_ITERATIONS = 60
# Of the squares of a head's weights, for features of unit deviation.
_DECAY = 1e-4


def fit_heads(
    model: models.Network,
    variables: Mapping[str, Tree],
    task: tasks.Task,
    train: data.Dataset,
    ladder: Ladder,
    key: jax.Array,
) -> dict[str, Tree]:
    """Returns parameters whose own heads suit the features they are given, but for the last.

    The features are those of the first 20,000 examples of an order, augmented as in training, and
    normalised by their batch, since running statistics may be of several precisions.

    Args:
      model: with own heads.
      variables: {"params": ..., "batch_stats": ...}, NumPy; unchanged.
      task: of the examples, with its augmentation; of one class each.
      train: to fit on.
      ladder: of prefixes.
      key: of order and augmentation.

    Raises:
      ValueError: the network has no own heads, or a configuration keeps a block after a skipped
        one, so that a head would be fitted to several things; says which.
    """
    if not getattr(model, "own_heads", False):
        raise ValueError(
            "config.train.fit_heads=True wants a network whose blocks hold heads of their own; set "
            "config.model.arguments.own_heads=True, or fit_heads to False"
        )
    if not ladder.has_prefixes_alone:
        raise ValueError(
            f"config.train.fit_heads=True fits a head to one input, and scheme {ladder.scheme!r} "
            "gives some several; use scheme 'coml', or set it to False"
        )
    network: Any = model
    masks = tuple(each.skip_mask for each in ladder if each.depth < ladder.full.depth)
    features, targets = _features(network, variables, task, train, masks, key)
    params = dict(variables["params"])
    for mask, given in zip(masks, features, strict=True):
        depth = mask.count(False)
        if not depth:
            params["head"] = _fitted(params["head"], given, targets)
            continue
        unit = network.block_names[depth - 1]
        params[unit] = {**params[unit], "head": _fitted(params[unit]["head"], given, targets)}
    return params


def _features(
    model: Any,
    variables: Mapping[str, Tree],
    task: tasks.Task,
    train: data.Dataset,
    masks: tuple[Any, ...],
    key: jax.Array,
) -> tuple[np.ndarray, np.ndarray]:
    """What the heads are given, [masks, examples, channels], and the classes, [examples]."""
    size = min(_BATCH, len(train))
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), len(train)))

    @jax.jit
    def given(variables: Any, inputs: Any, key: jax.Array) -> jax.Array:
        x = task.prepare(task.augment(inputs, task.draw(key, size)))
        found, _ = model.apply(
            variables, x, skip_masks=masks, train=True, mutable=["batch_stats"], method="pooled"
        )
        return found

    found, rows = [], order[: min(_IMAGES, len(train)) // size * size]
    for i in range(0, len(rows), size):
        inputs = jax.tree.map(lambda x, i=i: x[rows[i : i + size]], train.inputs)
        found.append(np.asarray(given(variables, inputs, jax.random.fold_in(key, 1 + i))))
    return np.concatenate(found, 1), np.asarray(train.targets[rows])


@jax.jit
def _descended(head: Any, features: jax.Array, targets: jax.Array) -> Any:
    """The head after so many iterations of L-BFGS."""

    def loss(head: Any) -> jax.Array:
        logits = features @ head["kernel"] + head["bias"][None]
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
        return fit + _DECAY * jnp.sum(jnp.square(head["kernel"]))

    optimizer = optax.lbfgs()
    graded = optax.value_and_grad_from_state(loss)

    def iterate(_: Any, both: Any) -> Any:
        head, state = both
        value, gradient = graded(head, state=state)
        updates, state = optimizer.update(
            gradient, state, head, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(head, updates), state

    return jax.lax.fori_loop(0, _ITERATIONS, iterate, (head, optimizer.init(head)))[0]


def _fitted(head: Mapping[str, Any], features: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """A head that suits features, [examples, channels or more]; those beyond are not its own."""
    given = features[:, : head["kernel"].shape[0]]
    spread = given.std(0, keepdims=True).T + np.float32(1e-6)
    begun = {"kernel": jnp.asarray(head["kernel"] * spread), "bias": jnp.asarray(head["bias"])}
    found = jax.device_get(_descended(begun, jnp.asarray(given / spread.T), jnp.asarray(targets)))
    return {"kernel": np.float32(found["kernel"] / spread), "bias": np.float32(found["bias"])}
