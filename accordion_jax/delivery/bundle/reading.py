"""Reads a bundle on disk, and checks it against its manifest."""

import hashlib
import os
import pathlib
import zlib

from accordion_jax.delivery.bundle.encodings.segment import Encoded
from accordion_jax.delivery.bundle.front import FRONT_NAME, check_front
from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, is_digest
from accordion_jax.delivery.bundle.unpacking import unpack
from accordion_jax.delivery.errors import BundleError

MANIFEST_NAME = "manifest.json"
SEGMENTS_NAME = "segments"


def read_manifest(bundle: str | os.PathLike) -> Manifest:
    """Reads and checks the manifest of a bundle's folder.

    Raises:
      FileNotFoundError: there is no manifest; names the path.
      ManifestError: it is not valid, or not that of the model the folder is named for.
    """
    bundle = pathlib.Path(bundle)
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no bundle at {bundle}: it has no {MANIFEST_NAME}")
    name = bundle.resolve().name
    with path.open("rb") as file:
        # One byte more than a manifest may have is enough to refuse it.
        data = file.read(MAX_MANIFEST_BYTES + 1)
    return Manifest.from_bytes(
        data, source=str(path), expected_id=name if is_digest(name) else None
    )


def segment_name(sha256: str) -> str:
    """Returns what the file of a segment is called, wherever it is kept."""
    return f"{sha256}.bin"


def segment_path(bundle: str | os.PathLike, sha256: str) -> pathlib.Path:
    """Returns where a bundle keeps a segment.

    Raises:
      ValueError: `sha256` is not a digest, and so might point anywhere.
    """
    if not is_digest(sha256):
        raise ValueError(f"sha256={sha256!a} is not 64 hexadecimal digits in lower case")
    return pathlib.Path(bundle) / SEGMENTS_NAME / segment_name(sha256)


def verify_bundle(bundle: str | os.PathLike) -> Manifest:
    """Checks every file of a bundle against its manifest, and returns the manifest.

    Raises:
      FileNotFoundError, ManifestError: as `read_manifest`.
      BundleError: a segment is missing, its size, digest or bytes of arrays differ, or it cannot be
        unpacked; names the segment, its path, and both values. Or there is a front, and it is that
        of another bundle.
    """
    manifest = read_manifest(bundle)
    held: dict[str, Encoded] = {}
    for segment in manifest.segments:
        path = segment_path(bundle, segment.sha256)
        what = f"segment {segment.name!r} at {path}"
        if not path.is_file():
            raise BundleError(f"{what} is missing; write or copy the bundle again")
        size = path.stat().st_size
        # A file of another size may be one of any size: it is not read.
        content = path.read_bytes() if size == segment.size_bytes else b""
        found: list[tuple[str, object, object]] = [
            ("size_bytes", size, segment.size_bytes),
            ("sha256", hashlib.sha256(content).hexdigest(), segment.sha256),
        ]
        if segment.layout is None:
            # A safetensors file is a length, a header, and arrays without holes.
            header_bytes = int.from_bytes(content[:8], "little")
            found.append(("tensor_bytes", size - 8 - header_bytes, segment.tensor_bytes))
        for property_, is_, wanted in found:
            if is_ != wanted:
                raise BundleError(
                    f"{what} has {property_}={is_}, the manifest says {wanted}; write or copy the "
                    "bundle again"
                )
        if segment.layout is None:
            continue
        try:
            held[segment.unit] = unpack(segment, content, held.get(segment.unit))
        except BundleError as error:
            raise BundleError(f"{what} cannot be unpacked: {error}") from error
    front = pathlib.Path(bundle) / FRONT_NAME
    if front.is_file():
        check_front(front.read_bytes(), manifest, str(front))
    return manifest


def summary(bundle: str | os.PathLike) -> str:
    """Verifies a bundle on disk and returns what a person wants to know of it, in some lines.

    Raises:
      FileNotFoundError, ManifestError, BundleError: as `verify_bundle`.
    """
    manifest = verify_bundle(bundle)
    wire = sum(segment.size_bytes for segment in manifest.segments)
    raw = sum(s.tensor_bytes for s in manifest.segments if s.refines is None)
    document = len(zlib.compress(manifest.to_bytes(), 9))
    smallest, full = manifest.table.rows[0], manifest.table.full
    return "\n".join(
        [
            f"bundle    {bundle}",
            f"model_id  {manifest.model_id}",
            f"segments  {len(manifest.segments)}, {wire} bytes "
            f"({100 * wire / raw:.2f} % of the arrays); every digest checked",
            f"ladder    {len(manifest.ladder)} configurations, from {smallest.configuration} "
            f"(error {smallest.top1_error:.4f}, first {manifest.segments[0].size_bytes} bytes)",
            f"          to {full.configuration} (error {full.top1_error:.4f})",
            f"manifest  {document} bytes, compressed",
            *_own_statistics(manifest),
        ]
    )


def _own_statistics(manifest: Manifest) -> list[str]:
    own = [segment.size_bytes for segment in manifest.segments if segment.is_statistics]
    if not own:
        return []
    return [f"own       statistics of {len(own)} configurations, {sum(own)} bytes of the segments"]
