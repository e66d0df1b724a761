"""The direction in which a unit's parameters go, and how far in each step."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from accordion_jax.runs import config as config_lib

_SGD = ("momentum", "nesterov", "weight_decay")


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Returns what turns a unit's gradients into its direction of descent, without learning rate.

    The step multiplies by the rate of its number: a schedule inside would count a unit's own
    updates, of which a block that is often skipped has fewer.

    Args:
      config: of a run. ``optimizer.name`` is "sgd" (momentum, and weight decay on every parameter,
        as He et al. 2016, section 3.4), or a function of Optax that takes a learning rate
        ("adamw"), or one of its transformations ("scale_by_adam"); ``optimizer.arguments`` go to
        it.

    Raises:
      ValueError: Optax has no such function, or it refuses the arguments; names them.
    """
    fields = config.optimizer
    arguments = dict(fields.arguments.items())
    if fields.name == "sgd":
        if arguments:
            raise ValueError(
                f"config.optimizer.arguments has {sorted(arguments)}: 'sgd' takes none; it has "
                f"{', '.join(f'config.optimizer.{name}' for name in _SGD)}"
            )
        return optax.chain(
            optax.add_decayed_weights(fields.weight_decay),
            optax.trace(fields.momentum, nesterov=fields.nesterov),
        )
    make = getattr(optax, fields.name, None)
    known = tuple(inspect.signature(make).parameters) if inspect.isfunction(make) else ()
    rated = "learning_rate" in known
    if (not rated and not fields.name.startswith("scale_by_")) or make is None:
        names = [name for name in dir(optax) if inspect.isfunction(getattr(optax, name))]
        close = difflib.get_close_matches(fields.name, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"config.optimizer.name={fields.name!r} must be 'sgd', or a function of Optax that "
            f"takes a learning rate or scales gradients, such as 'adamw'{hint}"
        )
    decays = "weight_decay" in known
    own = config_lib.own_fields(config, "optimizer", ("weight_decay",), f"optax.{fields.name}")
    takes = [name for name in known if name not in ("learning_rate", "weight_decay")]
    for name in arguments:
        if name not in takes:
            raise ValueError(
                f"config.optimizer.arguments.{name}: optax.{fields.name} takes {', '.join(takes)}; "
                "its learning rate and weight decay are fields of config.optimizer itself"
            )
    if decays:
        arguments |= own
    try:
        # Optax gives the change itself: minus the direction of descent, times the learning rate.
        chain = [make(1.0, **arguments), optax.scale(-1.0)] if rated else [make(**arguments)]
        if not decays and fields.weight_decay:
            chain.insert(0, optax.add_decayed_weights(fields.weight_decay))
        optimizer = _with_optax_promotion(optax.chain(*chain))
        _try(optimizer)
    except Exception as error:  # Optax has no error of its own
        raise ValueError(
            f"config.optimizer.name={fields.name!r} with {arguments} cannot train here: {error}"
        ) from error
    return optimizer


def _with_optax_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, also where JAX is set to refuse the promotion that Optax relies on."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _try(optimizer: optax.GradientTransformation) -> None:
    """Traces one update: some optimizers want more than gradients and parameters."""

    def update(params: Any) -> Any:
        return optimizer.update(params, optimizer.init(params), params)

    jax.eval_shape(update, {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)})


def make_schedule(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Callable[[Any], Any]:
    """Returns the learning rate as a function of the step's number, which may be traced.

    Args:
      config: of a run.
      steps_per_epoch: whole batches in the training split.
    """
    fields = config.optimizer
    warmup = round(fields.warmup_epochs * steps_per_epoch)
    if fields.schedule == "cosine":
        total = max(round(config.train.epochs * steps_per_epoch), warmup + 1)
        return optax.warmup_cosine_decay_schedule(0.0, fields.learning_rate, warmup, total)
    bounds = {round(e * steps_per_epoch): fields.decay_factor for e in fields.decay_epochs}
    steps = optax.piecewise_constant_schedule(fields.learning_rate, bounds)
    ramp = optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return lambda step: steps(step) * ramp(step)
