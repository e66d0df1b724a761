"""Bundles where an endpoint finds them: a local folder, or any URL that fsspec reads.

Read-only. New bundles are picked up as they appear; on object stores, where a folder does not
appear at once, copy a bundle's segments before its manifest.

Whatever lies there is not trusted: only regular files within the folder are read, their size is
looked at first, and what is refused is not read again until it changes.
"""

import dataclasses
import datetime
import functools
import gzip
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fsspec

from accordion_jax.delivery.bundle.front import pack
from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, is_digest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.bundle.reading import MANIFEST_NAME, segment_name
from accordion_jax.delivery.endpoint.releases import StoredRelease, latest_first
from accordion_jax.delivery.errors import ManifestError, SegmentError, StorageError, TrustError
from accordion_jax.delivery.trust.documents import MAX_RELEASE_BYTES, RELEASE_NAME
from accordion_jax.system.text import without_secrets

_log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024
_RELEASES_EVERY = 30  # refreshes of an object store between two looks at all releases
_BROKEN_S = 10.0  # how long a look at all segments counts as current


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

    @functools.cached_property
    def packed_body(self) -> bytes:
        """The same as it is in a front."""
        return pack(self.body)


class BundleStore:
    """The bundles under one folder or URL: files here if `is_local`. For several threads."""

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
            raise StorageError(
                without_secrets(f"bundles={url!r} cannot be opened: {error}")
            ) from error
        self._root = root.rstrip("/")
        self.is_local = "file" in _protocols(self._fs)
        self._lock = threading.Lock()
        self._models: dict[str, StoredModel] = {}
        self._skipped: dict[str, str] = {}
        # What a manifest was like when it was refused.
        self._refused: dict[str, tuple[Any, ...]] = {}
        # Replaced as a whole, so that any thread may read it.
        self._releases: Mapping[str, StoredRelease] = {}
        self._release_stamps: dict[str, tuple[Any, ...]] = {}
        self._bad_releases: dict[str, str] = {}
        self._releases_at = -float("inf")
        self._broken: Mapping[str, str] = {}
        self._broken_at = -float("inf")
        self._refreshed_at = -float("inf")
        # Objects of a store are whole and never change, and asking for each one's size is slow.
        self._checked: set[tuple[str, str]] = set()

    def models(self) -> Sequence[StoredModel]:
        """Returns all models, the latest first: see `latest_first`.

        Raises:
          StorageError: the folder or URL cannot be listed; names it.
        """
        self._refresh()
        return latest_first(list(self._models.values()), self._releases)

    def latest(self, line: str | None = None) -> StoredModel | None:
        """Returns the latest model, of a line if one is named; None if there is none.

        Raises:
          StorageError: as `models`.
        """
        models, releases = self.models(), self._releases
        if line is not None:
            models = [m for m in models if _line(releases.get(m.manifest.model_id)) == line]
        return next(iter(models), None)

    def releases(self) -> Mapping[str, StoredRelease]:
        """Returns the releases as they were last seen, by model_id."""
        return self._releases

    def skipped(self) -> Mapping[str, str]:
        """Returns the folders that are named like bundles and cannot be served, with the reason."""
        return dict(self._skipped)

    def broken(self) -> Mapping[str, str]:
        """Returns the models that cannot be sent whole, with the reason of each.

        A look takes one listing a model, so it counts as current for some seconds.

        Raises:
          StorageError: as `models`.
        """
        now = time.monotonic()
        if now - self._broken_at >= min(_BROKEN_S, 10 * self._refresh_s):
            found = {}
            for model in self.models():
                try:
                    self._look_at_segments(model)
                except (SegmentError, StorageError) as error:
                    found[model.manifest.model_id] = str(error)
            self._broken, self._broken_at = self._bad_releases | found, now
        return dict(self._broken)

    def _look_at_segments(self, model: StoredModel) -> None:
        folder = self._segment_path(model.manifest.model_id, "").rpartition("/")[0]
        try:
            self._fs.invalidate_cache(folder)
            listed = self._fs.ls(folder, detail=True)
        except FileNotFoundError:
            listed = []
        except Exception as error:  # fsspec's file systems have no common error
            raise StorageError(f"its segments cannot be listed: {type(error).__name__}") from error
        found = {entry["name"].rpartition("/")[2]: entry for entry in listed}
        for segment in model.manifest.by_sha256.values():
            name = segment_name(segment.sha256)
            self._check_segment(model, segment, found.get(name))

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
            try:
                found = self._fs.info(path)
            except FileNotFoundError:
                found = None
            except Exception as error:  # fsspec's file systems have no common error
                raise StorageError(without_secrets(f"{path} cannot be read: {error}")) from error
            self._check_segment(model, segment, found)
            if not self.is_local:
                self._checked.add(key)

    def _check_segment(
        self, model: StoredModel, segment: Segment, found: Mapping[str, Any] | None
    ) -> None:
        # Devices read these messages: they name the bundle, not the server's folders.
        what = f"segment {segment.name!r} of bundle {model.manifest.model_id}"
        if found is None:
            raise SegmentError(f"{what} is missing; copy the bundle there again")
        if not self._is_ours(found):
            raise SegmentError(f"{what} is no regular file of its folder; copy the bundle again")
        if found["size"] != segment.size_bytes:
            raise SegmentError(
                f"{what} has {found['size']} bytes, its manifest says {segment.size_bytes}; copy "
                "the bundle there again"
            )

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        """Whether an entry is a regular file within the folder of bundles."""
        if not self.is_local:
            return found.get("type") == "file"
        if not found.get("islink"):
            return found.get("type") == "file"
        root, target = os.path.realpath(self._root), os.path.realpath(found["name"])
        return pathlib.Path(target).is_file() and os.path.commonpath([root, target]) == root

    def read(
        self,
        model: StoredModel,
        digests: Sequence[str],
        start: int,
        stop: int,
        *,
        chunk_bytes: Callable[[], int] = lambda: CHUNK_BYTES,
    ) -> Iterator[bytes]:
        """Yields bytes ``[start, stop)`` of segments that are laid one after another.

        Memory: one chunk, and one segment's part of it.

        Args:
          model: one of this store.
          digests: of segments of its manifest, in the order of sending.
          start: first byte.
          stop: one past the last byte.
          chunk_bytes: of the next chunk.

        Raises:
          SegmentError: a segment ends early. What was yielded is right, and must not be completed.
          StorageError: one cannot be opened.
        """
        parts: list[bytes] = []
        gathered, offset, most = 0, 0, chunk_bytes()
        for sha256 in digests:
            size = model.manifest.by_sha256[sha256].size_bytes
            first, last = max(start - offset, 0), min(stop - offset, size)
            offset += size
            if first >= last:
                continue
            with self._open(model.manifest.model_id, sha256) as file:
                file.seek(first)
                while first < last:
                    data = file.read(min(most - gathered, last - first))
                    if not data:
                        raise SegmentError(
                            f"segment {sha256} ended at byte {first} of {size} while it was sent"
                        )
                    parts.append(data)
                    gathered += len(data)
                    first += len(data)
                    # Small segments go out together: each chunk costs a change of threads.
                    if gathered == most:
                        # A device may take its time; what a chunk was made of does not wait too.
                        parts, data, gathered = [b"".join(parts)], b"", 0
                        yield parts.pop()
                        most = chunk_bytes()
        if parts:
            yield b"".join(parts)

    def _open(self, model_id: str, sha256: str) -> Any:
        try:
            return self._fs.open(self._segment_path(model_id, sha256), "rb")
        except Exception as error:  # too many open files, say
            raise StorageError(f"segment {sha256} cannot be opened: {error}") from error

    def _segment_path(self, model_id: str, sha256: str) -> str:
        return f"{self._root}/{model_id}/segments/{segment_name(sha256)}"

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._refreshed_at < self._refresh_s:
                return
            try:
                self._fs.invalidate_cache(self._root)
                listed = self._fs.ls(self._root, detail=False)
            except Exception as error:  # fsspec's file systems have no common error
                raise StorageError(
                    without_secrets(f"bundles={self.url!r} cannot be listed: {error}")
                ) from error
            names = [path.rstrip("/").rpartition("/")[2] for path in listed]
            present = {name for name in names if is_digest(name)}
            models = {name: m for name, m in self._models.items() if name in present}
            skipped = {name: why for name, why in self._skipped.items() if name in present}
            refused = {name: stamp for name, stamp in self._refused.items() if name in present}
            for name in sorted(present - models.keys()):
                stamp: tuple[Any, ...] = ()
                try:
                    found = self._info(name, MANIFEST_NAME)
                    if found is None:
                        raise StorageError(f"{name}/{MANIFEST_NAME} is not there")
                    stamp = _stamp(found)
                    if refused.get(name) == stamp:
                        continue
                    models[name] = self._load(name, found)
                    skipped.pop(name, None)
                    refused.pop(name, None)
                except (ManifestError, StorageError) as error:
                    if isinstance(error, ManifestError) and any(stamp):
                        refused[name] = stamp
                    if skipped.get(name) != str(error):
                        _log.warning("skipping bundle %s: %s", name, error)
                    skipped[name] = str(error)
            self._models, self._skipped, self._refused = models, skipped, refused
            self._look_at_releases()
            self._refreshed_at = time.monotonic()

    def _look_at_releases(self) -> None:
        """A release may come, or be replaced, while its bundle stays as it is."""
        now, missing = time.monotonic(), self._models.keys() - self._release_stamps.keys()
        every_s = self._refresh_s * (1 if self.is_local else _RELEASES_EVERY)
        if not missing and now - self._releases_at < every_s:
            return
        releases, stamps, bad = {}, {}, {}
        for name in self._models:
            try:
                self._fs.invalidate_cache(f"{self._root}/{name}")
                found = self._info(name, RELEASE_NAME)
                stamp = stamps[name] = () if found is None else _stamp(found)
                if any(stamp) and stamp == self._release_stamps.get(name):
                    if name in self._bad_releases:
                        bad[name] = self._bad_releases[name]
                    else:
                        releases[name] = self._releases[name]
                elif found is not None:
                    body = self._content(name, RELEASE_NAME, found, MAX_RELEASE_BYTES)
                    releases[name] = StoredRelease.read(body, name)
            except (StorageError, ManifestError, TrustError) as error:
                bad[name] = str(error)
                if self._bad_releases.get(name) != str(error):
                    _log.warning("serving bundle %s as unsigned: %s", name, error)
        self._releases, self._release_stamps, self._bad_releases = releases, stamps, bad
        self._releases_at = now

    def _info(self, name: str, file: str) -> Mapping[str, Any] | None:
        """What the storage tells of a bundle's file; None if it is not there."""
        try:
            return self._fs.info(f"{self._root}/{name}/{file}")
        except FileNotFoundError:
            return None
        except Exception as error:  # fsspec's file systems have no common error
            raise StorageError(f"{name}/{file} cannot be read: {type(error).__name__}") from error

    def _content(self, name: str, file: str, found: Mapping[str, Any], most_bytes: int) -> bytes:
        source = f"{name}/{file}"
        if not self._is_ours(found):
            raise ManifestError(f"{source} is no regular file of its folder; copy the bundle again")
        size = found["size"]
        if size is not None and size > most_bytes:
            raise ManifestError(f"{source} has {size} bytes; at most {most_bytes} are read")
        try:
            # No more, whatever the size was said to be.
            return self._fs.cat_file(f"{self._root}/{source}", start=0, end=most_bytes + 1)
        except Exception as error:  # fsspec's file systems have no common error
            raise StorageError(f"{source} cannot be read: {type(error).__name__}") from error

    def _load(self, name: str, found: Mapping[str, Any]) -> StoredModel:
        data = self._content(name, MANIFEST_NAME, found, MAX_MANIFEST_BYTES)
        source = f"{name}/{MANIFEST_NAME}"
        manifest = Manifest.from_bytes(data, source=source, expected_id=name)
        try:
            created = self._fs.modified(f"{self._root}/{source}")
        except Exception:  # not every file system tells, and it only orders the list
            created = None
        if created is not None and created.tzinfo is None:
            created = created.replace(tzinfo=datetime.UTC)
        return StoredModel(manifest, created)


def _stamp(found: Mapping[str, Any]) -> tuple[Any, ...]:
    """What differs once a file is another; empty values where a storage does not tell."""
    return tuple(found.get(key) for key in ("size", "mtime", "ino", "ETag"))


def _line(release: StoredRelease | None) -> str | None:
    return release.line if release else None


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
