"""Segments as the variables of a network. NumPy only."""

from collections.abc import Callable
from typing import Any

import safetensors.numpy

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.errors import BundleError


def load_segment(manifest: Manifest, name: str, content: bytes) -> dict[str, Any]:
    """Returns the variables in a segment: ``{collection: {unit: tree}}``.

    Args:
      manifest: says which collection a tensor is of.
      name: of the segment. Tensors of a block carry no unit name: that is the segment's.
      content: of its file, checked by the caller.

    Raises:
      BundleError: it is no safetensors file that can be read, or a tensor's name is also that of a
        tree.
    """
    try:
        tensors = safetensors.numpy.load(content)
    # What the library raises at a header that is wrong depends on what is wrong.
    except Exception as error:
        raise BundleError(
            f"segment {name!r} cannot be read as safetensors ({error!r}); write the bundle again"
        ) from error
    variables: dict[str, Any] = {}
    base = manifest.segments[0].name
    for tensor, array in tensors.items():
        path = tensor.split("/") if name == base else [name, *tensor.split("/")]
        node = variables.setdefault(manifest.collection(tensor), {})
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or path[-1] in node:
            raise BundleError(
                f"tensor {tensor!r} of segment {name!r} is named like a tree of tensors, or lies "
                "below one; write the bundle again"
            )
        node[path[-1]] = array
    return variables


def load_variables(
    manifest: Manifest, read: Callable[[str], bytes], configuration: Configuration | None = None
) -> dict[str, Any]:
    """Returns a configuration's variables, one segment in memory at a time; None is the full model.

    Args:
      manifest: of the model.
      read: digest -> the segment's bytes, checked.
      configuration: whose segments to load.
    """
    variables: dict[str, Any] = {}
    for name in (configuration or manifest.ladder[-1]).segments:
        content = read(manifest.by_name[name].sha256)
        for collection, units in load_segment(manifest, name, content).items():
            variables.setdefault(collection, {}).update(units)
    return variables
