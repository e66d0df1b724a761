"""Networks that take a static skip mask, and how one is rebuilt from a JSON-able description.

A new family is one file here with a Linen module that follows `contract.Network`, and an entry in
``FAMILIES``. Its arguments come from the config unread.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from accordion_jax.models.contract import ABILITIES, Network, check, fields_of, kept_units
from accordion_jax.models.resnet import ResNet

FAMILIES: dict[str, Any] = {"resnet": ResNet}


def describe(model: Network) -> dict[str, Any]:
    """Returns what `build` needs to make the same network again, as JSON-able values."""
    family = next(name for name, cls in FAMILIES.items() if type(model) is cls)
    arguments = {name: getattr(model, name) for name in fields_of(type(model))}
    # An option that is off, as it is by default, is not said: whoever does not know it yet can
    # build the network.
    off = {field.name for field in dataclasses.fields(FAMILIES[family]) if field.default is False}
    said = {
        name: _jsonable(value)
        for name, value in arguments.items()
        if value is not False or name not in off
    }
    return {"family": family, "arguments": said}


def build(description: Mapping[str, Any], **abilities: Any) -> Network:
    """Returns the network of a description, for instance of a bundle's manifest.

    Args:
      description: ``{"family": "resnet", "arguments": {"stage_sizes": [3, 3, 3], …}}``.
      **abilities: how it runs: those of `contract.ABILITIES`. One that a family lacks is refused,
        unless it asks for what every family does.

    Raises:
      ValueError: the family is unknown, an argument is or has a value that the family refuses, or
        the family lacks an ability that is asked for; names it and those there are.
    """
    family = description.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"model family {family!r} is not known; known: {sorted(FAMILIES)}")
    cls, given = FAMILIES[family], description.get("arguments", {})
    if not isinstance(given, Mapping):
        raise ValueError(f"arguments={given!r} of {family} must be an object, name to value")
    arguments = {name: _hashable(value) for name, value in given.items()}
    known = fields_of(cls)
    for name in arguments:
        if name not in known:
            raise ValueError(f"{family} has no argument {name!r}; it has {sorted(known)}")
    for name in sorted(
        field.name
        for field in dataclasses.fields(cls)
        if field.name in known
        and field.name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ):
        raise ValueError(f"{family} needs the argument {name!r}; it has {sorted(known)}")
    fields = {field.name for field in dataclasses.fields(cls)}
    for name, value in abilities.items():
        if name not in ABILITIES:
            raise ValueError(f"{family} has no argument {name!r}; it has {sorted(known)}")
        default, what = ABILITIES[name]
        if name in fields:
            arguments[name] = value
        elif value != (jnp.dtype(default) if name == "dtype" else default):
            raise ValueError(f"no network of family {family!r} {what}; got {name}={value}")
    return check(cls(**arguments), family)


def _jsonable(value: Any) -> Any:
    return [_jsonable(each) for each in value] if isinstance(value, tuple) else value


def _hashable(value: Any) -> Any:
    return tuple(_hashable(each) for each in value) if isinstance(value, list | tuple) else value


__all__ = ["FAMILIES", "Network", "ResNet", "build", "describe", "kept_units"]
