"""Bundles where an endpoint finds them: a local folder, or any URL that fsspec reads.

Read-only. New bundles are picked up as they appear; on object stores, where a folder does not
appear at once, copy a bundle's segments before its manifest.
"""

import dataclasses
import datetime
import functools
import gzip
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import fsspec

from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, is_digest
from accordion_jax.delivery.errors import ManifestError, SegmentError, StorageError

_log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A bundle that can be served.

    Attributes:
      manifest: checked.
      created: when its manifest was written there; None if the storage does not tell.
    """

    manifest: Manifest
    created: datetime.datetime | None

    @functools.cached_property
    def body(self) -> bytes:
        """The manifest as it is sent."""
        return self.manifest.to_bytes()

    @functools.cached_property
    def gzipped_body(self) -> bytes:
        """The same compressed, always to the same bytes."""
        return gzip.compress(self.body, 9, mtime=0)


class BundleStore:
    """The bundles under one folder or URL. Safe to use from several threads."""

    def __init__(self, url: str, *, refresh_s: float = 1.0):
        """Opens the storage; reads nothing yet.

        Args:
          url: path of a folder of bundles, or URL such as ``s3://bucket/bundles``.
          refresh_s: for so long a listing is taken as current.

        Raises:
          StorageError: fsspec does not know the protocol, or lacks a package for it; names the URL.
        """
        self.url = url
        self._refresh_s = refresh_s
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise StorageError(f"bundles={url!r} cannot be opened: {error}") from error
        self._root = root.rstrip("/")
        self._is_local = "file" in _protocols(self._fs)
        self._lock = threading.Lock()
        self._models: dict[str, StoredModel] = {}
        self._skipped: dict[str, str] = {}
        self._refreshed_at = -float("inf")
        # Objects of a store are whole and never change, and asking for each one's size is slow.
        self._checked: set[tuple[str, str]] = set()

    def models(self) -> Sequence[StoredModel]:
        """Returns all models, the latest first.

        One that no other follows comes before all that are followed; among these, the newest first.

        Raises:
          StorageError: the folder or URL cannot be listed; names it.
        """
        self._refresh()
        models = list(self._models.values())
        followed = {model.manifest.follows for model in models}
        oldest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        return sorted(
            models,
            key=lambda m: (
                m.manifest.model_id not in followed,
                m.created or oldest,
                m.manifest.model_id,
            ),
            reverse=True,
        )

    def skipped(self) -> Mapping[str, str]:
        """Returns the folders that are named like bundles and cannot be served, with the reason."""
        return dict(self._skipped)

    def known(self, model_id: str) -> StoredModel | None:
        """Returns a model without touching the storage; None if that needs a new listing."""
        is_current = time.monotonic() - self._refreshed_at < self._refresh_s
        return self._models.get(model_id) if is_current else None

    def model(self, model_id: str) -> StoredModel | None:
        """Returns a model, or None if there is none of this id.

        Raises:
          StorageError: as `models`.
        """
        self._refresh()
        return self._models.get(model_id)

    def check_segments(self, model: StoredModel, digests: Sequence[str]) -> None:
        """Makes sure that segments are there, each with the size that the manifest promises.

        Args:
          model: one of this store.
          digests: of segments of its manifest.

        Raises:
          SegmentError: one is missing or has another size; names it, and both sizes.
          StorageError: the storage does not answer.
        """
        for sha256 in digests:
            key = (model.manifest.model_id, sha256)
            if key in self._checked:
                continue
            segment = model.manifest.by_sha256[sha256]
            path = self._segment_path(*key)
            # Devices read these messages: they name the bundle, not the server's folders.
            what = f"segment {segment.name!r} of bundle {key[0]}"
            try:
                found = self._fs.info(path)["size"]
            except FileNotFoundError as error:
                raise SegmentError(f"{what} is missing; copy the bundle there again") from error
            except Exception as error:  # fsspec's file systems have no common error
                raise StorageError(f"{path} cannot be read: {error}") from error
            if found != segment.size_bytes:
                raise SegmentError(
                    f"{what} has {found} bytes, its manifest says {segment.size_bytes}; copy the "
                    "bundle there again"
                )
            if not self._is_local:
                self._checked.add(key)

    def read(
        self, model: StoredModel, digests: Sequence[str], start: int, stop: int
    ) -> Iterator[bytes]:
        """Yields bytes ``[start, stop)`` of segments that are laid one after another.

        Memory: one chunk of CHUNK_BYTES, and one segment's part of it.

        Args:
          model: one of this store.
          digests: of segments of its manifest, in the order of sending.
          start: first byte.
          stop: one past the last byte.

        Raises:
          SegmentError: a segment ends early. What was yielded is right, and must not be completed.
        """
        parts: list[bytes] = []
        gathered, offset = 0, 0
        for sha256 in digests:
            size = model.manifest.by_sha256[sha256].size_bytes
            first, last = max(start - offset, 0), min(stop - offset, size)
            offset += size
            if first >= last:
                continue
            with self._fs.open(self._segment_path(model.manifest.model_id, sha256), "rb") as file:
                file.seek(first)
                while first < last:
                    data = file.read(min(CHUNK_BYTES - gathered, last - first))
                    if not data:
                        raise SegmentError(
                            f"segment {sha256} ended at byte {first} of {size} while it was sent"
                        )
                    parts.append(data)
                    gathered += len(data)
                    first += len(data)
                    # Small segments go out together: each chunk costs a change of threads.
                    if gathered == CHUNK_BYTES:
                        yield b"".join(parts)
                        parts, gathered = [], 0
        if parts:
            yield b"".join(parts)

    def _segment_path(self, model_id: str, sha256: str) -> str:
        return f"{self._root}/{model_id}/segments/{sha256}.safetensors"

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._refreshed_at < self._refresh_s:
                return
            try:
                self._fs.invalidate_cache(self._root)
                listed = self._fs.ls(self._root, detail=False)
            except Exception as error:  # fsspec's file systems have no common error
                raise StorageError(f"bundles={self.url!r} cannot be listed: {error}") from error
            names = [path.rstrip("/").rpartition("/")[2] for path in listed]
            present = {name for name in names if is_digest(name)}
            models = {name: m for name, m in self._models.items() if name in present}
            skipped = {name: why for name, why in self._skipped.items() if name in present}
            for name in sorted(present - models.keys()):
                try:
                    models[name] = self._load(name)
                    skipped.pop(name, None)
                except (ManifestError, StorageError) as error:
                    if skipped.get(name) != str(error):
                        _log.warning("skipping bundle %s: %s", name, error)
                    skipped[name] = str(error)
            self._models, self._skipped = models, skipped
            self._refreshed_at = time.monotonic()

    def _load(self, name: str) -> StoredModel:
        source = f"{name}/manifest.json"
        path = f"{self._root}/{source}"
        try:
            size = self._fs.info(path)["size"]
            if size is not None and size > MAX_MANIFEST_BYTES:
                raise ManifestError(
                    f"{source} has {size} bytes; at most {MAX_MANIFEST_BYTES} are read"
                )
            data = self._fs.cat_file(path)
        except ManifestError:
            raise
        except Exception as error:  # fsspec's file systems have no common error
            raise StorageError(f"{source} cannot be read: {type(error).__name__}") from error
        manifest = Manifest.from_bytes(data, source=source, expected_id=name)
        try:
            created = self._fs.modified(path)
        except Exception:  # not every file system tells, and it only orders the list
            created = None
        if created is not None and created.tzinfo is None:
            created = created.replace(tzinfo=datetime.UTC)
        return StoredModel(manifest, created)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
