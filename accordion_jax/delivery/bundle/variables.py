"""Segments as the variables of a network. NumPy only."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
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


def quantise_int8(variables: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns the variables after a round trip through 8 bits, and the bytes that those take.

    Kernels of convolutions and dense layers become int8, symmetric, with one float32 scale an
    output channel (the last axis): ``scale = max |w| / 127``. Everything else (biases, batch norm)
    stays as it is: it is about 1 % of a ResNet.

    Args:
      variables: a tree of arrays; unchanged.
    """
    size_bytes = 0
    tree: dict[str, Any] = {}
    for name, value in variables.items():
        if isinstance(value, Mapping):
            tree[name], size = quantise_int8(value)
            size_bytes += size
            continue
        array = np.asarray(value)
        if name != "kernel":
            tree[name] = array
            size_bytes += array.nbytes
            continue
        largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        quantised = np.clip(np.rint(array / scale), -127, 127).astype(np.int8)
        tree[name] = quantised.astype(np.float32) * scale
        size_bytes += quantised.nbytes + scale.nbytes
    return tree, size_bytes
