"""Networks that take a static skip mask, and how one is rebuilt from a JSON-able description.

A new architecture is a file here with a Linen module like `resnet.ResNet`, and an entry in
``FAMILIES``. What the other rooms ask of a module:

* ``model(images, skip_mask=..., train=...)`` returns logits;
* ``model.truncations(images, skip_masks=..., train=...)`` returns those of many masks in one pass;
* ``stage_sizes``, ``block_names`` and ``base_names``: its parameters are one sub-tree a name;
* ``unit_macs(image_shape)`` counts multiply-accumulates a name;
* fields ``dtype``, ``axis_name`` and ``scan_stages`` say how it runs, not what it is.
"""

import dataclasses
from typing import Any

from accordion_jax.models.resnet import ResNet

FAMILIES = {"resnet": ResNet}

# Fields of a Linen module that describe where and how it runs, not what it is.
_NOT_DESCRIBED = {"parent", "name", "dtype", "axis_name", "scan_stages"}


def describe(model: ResNet) -> dict[str, Any]:
    """Returns what `build` needs to make the same network again, as JSON-able values."""
    family = next(name for name, cls in FAMILIES.items() if type(model) is cls)
    arguments = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in _NOT_DESCRIBED
    }
    jsonable = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
    return {"family": family, "arguments": jsonable}


def build(description: dict[str, Any], **overrides: Any) -> ResNet:
    """Returns the network of a description, for instance of a bundle's manifest.

    Args:
      description: ``{"family": "resnet", "arguments": {"stage_sizes": [3, 3, 3], …}}``.
      **overrides: further fields of the module, such as ``dtype`` or ``scan_stages``.

    Raises:
      ValueError: the family is unknown, or an argument is; names it.
    """
    family = description.get("family")
    if family not in FAMILIES:
        raise ValueError(f"model family {family!r} is not known; known: {sorted(FAMILIES)}")
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description.get("arguments", {}).items()
    }
    known = {field.name for field in dataclasses.fields(FAMILIES[family])} - {"parent", "name"}
    unknown = sorted((arguments | overrides).keys() - known)
    if unknown:
        raise ValueError(f"{family} has no argument {unknown[0]!r}; it has {sorted(known)}")
    return FAMILIES[family](**(arguments | overrides))


__all__ = ["FAMILIES", "ResNet", "build", "describe"]
