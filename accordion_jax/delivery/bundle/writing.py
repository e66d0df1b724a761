"""Writes a bundle: immutable segments named by their digest, and one manifest.

::

  DIR/<model_id>/manifest.json
  DIR/<model_id>/segments/<sha256>.bin
  DIR/<model_id>/front

Knows arrays and look-up tables, not networks. A bundle appears whole or not at all, and is never
changed afterwards: a new version is a new folder, which says what it follows.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.manifest import Manifest, digest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.bundle.reading import MANIFEST_NAME, SEGMENTS_NAME, segment_path
from accordion_jax.delivery.errors import BundleError
from accordion_jax.depth import LookupTable
from accordion_jax.system.files import mend, new_folder


@dataclasses.dataclass(frozen=True)
class Piece:
    """A segment that is encoded already; see `encodings`.

    Attributes:
      unit: what it is of; a later piece of a unit refines the one before it.
      bits: a weight once it has been used.
      layout: of the unit's tensors.
      content: of the file.
    """

    unit: str
    bits: int
    layout: Layout
    content: bytes


def write_bundle(
    out_dir: str | os.PathLike,
    *,
    segments: Mapping[str, Mapping[str, np.ndarray] | Piece],
    ladder: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    table: LookupTable,
    provenance: Mapping[str, Any],
    follows: str | None = None,
) -> pathlib.Path:
    """Writes a bundle and returns its folder, ``out_dir/<model_id>``.

    The same input gives the same bytes and the same id; of a bundle that is there already only
    files that are missing or damaged are written. A crash leaves at most a hidden file or folder
    that ends in ``.tmp``, never half a bundle.

    Args:
      out_dir: folder of bundles; made if it is missing.
      segments: name -> arrays by name, which become a safetensors file, or what is encoded already;
        in sending order, the base first. A refinement is called after its unit and the bits that
        it leads to: ``base.8``.
      ladder: ``{"name", "segments", "skip_mask"}`` of each configuration, smallest first; and
        ``"statistics"``, the unit of its own, of those that have one.
      model: what the runtime needs to build the network; JSON-able.
      table: one row a configuration: what was counted, and what it costs to run. Sizes are worked
        out from the segments.
      provenance: JSON-able facts of where the model comes from. No time of writing: that would
        make every bundle a new one.
      follows: model_id of the version that this one replaces.

    Raises:
      BundleError: a segment is empty, or an array cannot be stored; names both.
      ManifestError: the parts contradict each other; see `Manifest.from_bytes`.
    """
    files: dict[str, bytes] = {}
    described = []
    last_of: dict[str, str] = {}
    for name, each in segments.items():
        segment, data = _described(name, each)
        described.append(dataclasses.replace(segment, refines=last_of.get(segment.unit)))
        files[segment.sha256], last_of[segment.unit] = data, name
    manifest = Manifest.create(
        segments=described,
        ladder=[
            Configuration(
                str(c["name"]),
                tuple(c["segments"]),
                tuple(bool(skip) for skip in c["skip_mask"]),
                c.get("statistics"),
            )
            for c in ladder
        ],
        model=model,
        table=table,
        provenance=provenance,
        follows=follows,
    )
    bundle = pathlib.Path(out_dir) / manifest.model_id
    if bundle.exists():
        for sha256, data in files.items():
            mend(segment_path(bundle, sha256), data)
        mend(bundle / MANIFEST_NAME, manifest.to_bytes())
        write_front(bundle, manifest)
    else:
        with new_folder(bundle) as folder:
            (folder / SEGMENTS_NAME).mkdir()
            for sha256, data in files.items():
                segment_path(folder, sha256).write_bytes(data)
            (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
            write_front(folder, manifest)
    return bundle


def _described(name: str, each: Mapping[str, np.ndarray] | Piece) -> tuple[Segment, bytes]:
    """A segment, and the bytes of its file."""
    if isinstance(each, Piece):
        data, unit, bits, layout = each.content, each.unit, each.bits, each.layout
        return (
            Segment(name, unit, bits, digest(data), len(data), layout.tensor_bytes, layout),
            data,
        )
    data = _segment_bytes(name, each)
    arrays = [np.asarray(array) for array in each.values()]
    # Networks run on as in float32 or float16; other arrays are what they are.
    bits_of = {8 * array.itemsize if array.dtype.kind == "f" else None for array in arrays}
    of_all = bits_of.pop() if len(bits_of) == 1 else None
    tensor_bytes = sum(array.nbytes for array in arrays)
    plain = Segment(
        name,
        name,
        of_all if of_all in (16, 32) else None,
        digest(data),
        len(data),
        tensor_bytes,
    )
    return plain, data


def _segment_bytes(name: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    if not arrays:
        raise BundleError(f"segment {name!r} has no arrays; leave it out, or give it some")
    contiguous = {}
    for key, array in arrays.items():
        # Objects would need pickle, and everything else that is no plain number has no safetensors
        # type. bfloat16 and float8 are of kind V for NumPy.
        if np.asarray(array).dtype.kind not in "fiubV":
            raise BundleError(
                f"array {key!r} of segment {name!r} has dtype {np.asarray(array).dtype}; wanted "
                "booleans, integers or floating-point numbers"
            )
        contiguous[key] = np.ascontiguousarray(array).reshape(np.shape(array))
    try:
        return safetensors.numpy.save(contiguous)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"segment {name!r} cannot be stored as safetensors: {error}") from error
