"""Segments as the variables of a network. NumPy only."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from accordion_jax.delivery.bundle.encodings.segment import Encoded
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.bundle.reading import MANIFEST_NAME, segment_path, verify_bundle
from accordion_jax.delivery.bundle.sent_bits import SentBits, read_sent_bits
from accordion_jax.delivery.bundle.unpacking import unpack
from accordion_jax.delivery.errors import BundleError


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A unit's segment, and all that it refines.

    Attributes:
      variables: ``{collection: {unit: tree}}``.
      encoded: what the next refinement adds to; None where there is none.
      is_statistics: whether they take the place of those of other units.
    """

    variables: dict[str, Any]
    encoded: Encoded | None
    is_statistics: bool = False


def load_segment(
    manifest: Manifest, name: str, content: bytes, before: Loaded | None = None
) -> Loaded:
    """Returns the variables of a segment's unit.

    Args:
      manifest: says which collection a tensor is of.
      name: of the segment. Tensors of a block carry no unit name: that is the segment's.
      content: of its file, checked by the caller.
      before: the segment that it refines, loaded; None where it refines nothing.

    Raises:
      BundleError: it cannot be read, it does not refine that segment, own statistics are none, or
        a tensor's name is also that of a tree.
    """
    segment = manifest.by_name[name]
    if segment.layout is None:
        return Loaded(_variables(manifest, segment, _safetensors(name, content)), None)
    try:
        encoded = unpack(segment, content, before.encoded if before else None)
    except BundleError as error:
        raise BundleError(f"segment {name!r} cannot be read: {error}") from error
    variables = _variables(manifest, segment, encoded.arrays())
    is_refined = name in manifest.refined
    return Loaded(variables, encoded if is_refined else None, segment.is_statistics)


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
    loaded: dict[str, Loaded] = {}
    for name in (configuration or manifest.ladder[-1]).segments:
        segment = manifest.by_name[name]
        before = loaded.pop(segment.refines) if segment.refines else None
        loaded[name] = load_segment(manifest, name, read(segment.sha256), before)
        _merge(variables, loaded[name])
    return variables


@dataclasses.dataclass(frozen=True)
class BundledModel:
    """The network of a bundle.

    Attributes:
      folder: of the bundle.
      description: what `models.build` needs.
      variables: of the full model.
    """

    folder: str | os.PathLike
    description: Mapping[str, Any]
    variables: dict[str, Any]

    @property
    def sent(self) -> SentBits:
        """What it sends, step by step; read when it is asked for."""
        return read_sent_bits(self.folder)


def read_model(folder: str | os.PathLike) -> BundledModel | None:
    """Returns the network of a bundle; None if the folder is none.

    Raises:
      ManifestError, BundleError: as `reading.verify_bundle`.
    """
    if not (pathlib.Path(folder) / MANIFEST_NAME).is_file():
        return None
    manifest = verify_bundle(folder)
    variables = load_variables(manifest, lambda sha256: segment_path(folder, sha256).read_bytes())
    return BundledModel(folder, manifest.model, variables)


def merged(segments: Iterable[Loaded]) -> dict[str, Any]:
    """Returns the variables of several segments as one tree: ``{collection: {unit: tree}}``.

    Args:
      segments: one a unit; own statistics after those whose place they take.

    Raises:
      BundleError: own statistics are not those of these segments; names the tensor.
    """
    variables: dict[str, Any] = {}
    for each in segments:
        _merge(variables, each)
    return variables


def _merge(variables: dict[str, Any], loaded: Loaded) -> None:
    if loaded.is_statistics:
        variables |= replaced(variables, loaded.variables)
        return
    for collection, units in loaded.variables.items():
        variables.setdefault(collection, {}).update(units)


def replaced(tree: Mapping[str, Any], by: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Returns a tree with some of its arrays replaced.

    Args:
      tree: unchanged.
      by: has the same names as far as it goes.
      where: what lies above, for errors.

    Raises:
      BundleError: a name is none of the tree's, or its array has another shape; names it.
    """
    new = dict(tree)
    for name, value in by.items():
        path = f"{where}{name}"
        if name not in new:
            raise BundleError(f"there are statistics {path!r}, and nothing of this name to replace")
        if isinstance(value, Mapping) and isinstance(new[name], Mapping):
            new[name] = replaced(new[name], value, f"{path}/")
            continue
        found, wanted = np.shape(value), np.shape(new[name])
        if isinstance(value, Mapping) or isinstance(new[name], Mapping) or found != wanted:
            raise BundleError(
                f"the statistics {path!r} have the shape {found}; wanted {wanted}, as of what they "
                "replace"
            )
        new[name] = value
    return new


def _safetensors(name: str, content: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(content)
    # What the library raises at a header that is wrong depends on what is wrong.
    except Exception as error:
        raise BundleError(
            f"segment {name!r} cannot be read as safetensors ({error!r}); write the bundle again"
        ) from error


def _variables(
    manifest: Manifest, segment: Segment, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    base = manifest.segments[0].unit
    for tensor, array in tensors.items():
        path = tensor.split("/")
        if segment.unit != base and not segment.is_statistics:
            path.insert(0, segment.unit)
        node = variables.setdefault(manifest.collection(tensor), {})
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or path[-1] in node:
            raise BundleError(
                f"tensor {tensor!r} of segment {segment.name!r} is named like a tree of tensors, "
                "or lies below one; write the bundle again"
            )
        node[path[-1]] = array
    return variables
