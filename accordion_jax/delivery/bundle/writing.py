"""Writes a bundle: immutable safetensors segments named by their digest, and one manifest.

::

  DIR/<model_id>/manifest.json
  DIR/<model_id>/segments/<sha256>.safetensors
  DIR/<model_id>/front

Knows arrays and look-up tables, not networks. A bundle appears whole or not at all, and is never
changed afterwards: a new version is a new folder, which says what it follows.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.manifest import Manifest, digest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.bundle.reading import MANIFEST_NAME, SEGMENTS_NAME, segment_path
from accordion_jax.delivery.errors import BundleError
from accordion_jax.depth import LookupTable
from accordion_jax.system.files import mend, new_folder


def write_bundle(
    out_dir: str | os.PathLike,
    *,
    segments: Mapping[str, Mapping[str, np.ndarray]],
    depends_on: Mapping[str, Sequence[str]],
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
      segments: name -> arrays by name, in sending order, the base first.
      depends_on: name -> names of the segments that it is of no use without.
      ladder: ``{"name", "segments", "skip_mask"}`` of each configuration, smallest first.
      model: what the runtime needs to build the network; JSON-able.
      table: one row a configuration.
      provenance: JSON-able facts of where the model comes from. No time of writing: that would
        make every bundle a new one.
      follows: model_id of the version that this one replaces.

    Raises:
      BundleError: a segment is empty, or an array cannot be stored; names both.
      ManifestError: the parts contradict each other; see `Manifest.from_bytes`.
    """
    files: dict[str, bytes] = {}
    described = []
    for name, arrays in segments.items():
        data = _segment_bytes(name, arrays)
        files[digest(data)] = data
        described.append(
            Segment(
                name=name,
                sha256=digest(data),
                size_bytes=len(data),
                tensor_bytes=sum(np.asarray(array).nbytes for array in arrays.values()),
                depends_on=tuple(depends_on.get(name, ())),
            )
        )
    manifest = Manifest.create(
        segments=described,
        ladder=[
            Configuration(
                str(c["name"]), tuple(c["segments"]), tuple(bool(skip) for skip in c["skip_mask"])
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
