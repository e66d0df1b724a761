"""The front of a bundle: all that a device wants first, in one piece.

::

    8 bytes   "accfrnt", and the version of this layout, 1
    32 bytes  model_id
    4 bytes   size of the manifest, packed; 0 where the device has it
    4 bytes   size of the release, packed; 0 where there is none
    8 bytes   bytes of the first segment that the device has
    2 bytes   number of segments
    2 bytes   each: the segment's place in the manifest
    ...       the manifest, the release (each packed with zlib), the segments one after another

Numbers are unsigned, the highest byte first. A bundle's folder has one with its smallest
configuration, so that any web server answers one request with a model that runs. An endpoint's
answer to a first request has the same layout, with the segments that were planned for the device.

Nothing in a front is believed for being there: the manifest is checked against its own id, each
segment against the manifest's digest, the release against the keys that a device has pinned.
"""

import dataclasses
import struct
import zlib
from collections.abc import Callable, Sequence

from accordion_jax.delivery.bundle.manifest import MAX_MANIFEST_BYTES, Manifest, digest
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.errors import BundleError, ManifestError

FRONT_NAME = "front"
RELEASE_NAME = "release.json"
# As many as there may be roots of so many keys and signatures; an ordinary file has 1 kB.
MAX_RELEASE_BYTES = 1 << 19

_MAGIC, _VERSION = b"accfrnt", 1
_HEAD = struct.Struct(">7sB32sIIQH")


@dataclasses.dataclass(frozen=True)
class Head:
    """What comes before the segments.

    Attributes:
      model_id: of the model that the rest is of.
      manifest: the document, not checked; None where the device has it.
      release: the document, not checked; None where there is none.
      places: of the segments that follow, each its place in the manifest, no two alike.
      offset: bytes of the first of them that are left out, since the device has them.
    """

    model_id: str
    manifest: bytes | None
    release: bytes | None
    places: tuple[int, ...] = ()
    offset: int = 0

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        segments: Sequence[Segment],
        *,
        document: bytes | None = None,
        release: bytes | None = None,
        offset: int = 0,
    ) -> "Head":
        """Returns the head of segments of a model.

        Args:
          manifest: of the model.
          segments: some of its, in the order in which they will follow, each once.
          document: the manifest as it is sent; None leaves it out.
          release: the document of its release.
          offset: bytes of the first segment that will be left out.
        """
        places: dict[str, int] = {}
        for place, segment in enumerate(manifest.segments):
            places.setdefault(segment.sha256, place)
        return cls(
            manifest.model_id,
            document,
            release,
            tuple(places[segment.sha256] for segment in segments),
            offset,
        )

    def to_bytes(self, packed: bytes | None = None) -> bytes:
        """Returns it as it is sent: the same bytes for the same head.

        Args:
          packed: what `pack` made of the manifest, where that was done before.
        """
        manifest, release = b"", b""
        if self.manifest is not None:
            manifest = packed or pack(self.manifest)
        if self.release is not None:
            release = pack(self.release)
        count = len(self.places)
        model_id = bytes.fromhex(self.model_id)
        fixed = _HEAD.pack(
            _MAGIC, _VERSION, model_id, len(manifest), len(release), self.offset, count
        )
        return b"".join([fixed, struct.pack(f">{count}H", *self.places), manifest, release])

    def segments_of(self, manifest: Manifest, source: str) -> tuple[Segment, ...]:
        """Returns the segments that follow.

        Args:
          manifest: of the model, checked.
          source: what to call the front in errors.

        Raises:
          ManifestError: the front is of another model, or names a place or bytes that there are
            not.
        """
        if manifest.model_id != self.model_id:
            raise ManifestError(
                f"{source} says that it is of model {self.model_id}, and comes with the manifest "
                f"of {manifest.model_id}"
            )
        beyond = [place for place in self.places if place >= len(manifest.segments)]
        if beyond:
            raise ManifestError(
                f"{source} has a segment in place {beyond[0]}; model {self.model_id} has "
                f"{len(manifest.segments)}"
            )
        found = tuple(manifest.segments[place] for place in self.places)
        most = found[0].size_bytes if found else 0
        if self.offset > most:
            raise ManifestError(
                f"{source} leaves out {self.offset} bytes of a segment; it has {most}"
            )
        return found


def pack(document: bytes) -> bytes:
    """Returns a document as it is in a front."""
    return zlib.compress(document, 9)


def read_head(take: Callable[[int], bytes], source: str) -> Head:
    """Reads the head of a front, no further than its first segment.

    Args:
      take: returns exactly so many of the next bytes, or raises.
      source: what to call the front in errors.

    Raises:
      ManifestError: it is none, or of a version that is not known, or a part is larger than it may
        be or damaged; names the value, and what was wanted.
    """
    magic, version, model_id, manifest_bytes, release_bytes, offset, count = _HEAD.unpack(
        take(_HEAD.size)
    )
    if magic != _MAGIC:
        raise ManifestError(f"{source} is no front: it begins with {magic!r}, not {_MAGIC!r}")
    if version != _VERSION:
        raise ManifestError(f"{source} is a front of version {version}; wanted {_VERSION}")
    parts = (
        ("manifest", manifest_bytes, MAX_MANIFEST_BYTES),
        ("release", release_bytes, MAX_RELEASE_BYTES),
    )
    for what, size, most in parts:
        if size > most:
            raise ManifestError(f"{source} has a {what} of {size} bytes; at most {most} are read")
    places = struct.unpack(f">{count}H", take(2 * count))
    if len(set(places)) < count:
        raise ManifestError(f"{source} has a segment twice")
    manifest, release = (
        _unpacked(take(size), most, f"the {what} in {source}") if size else None
        for what, size, most in parts
    )
    return Head(model_id.hex(), manifest, release, places, offset)


def _unpacked(packed: bytes, most: int, what: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(packed, most + 1)
    except zlib.error as error:
        raise ManifestError(f"{what} is damaged: {error}") from error
    if len(found) > most:
        raise ManifestError(f"{what} has more than {most} bytes, unpacked")
    if not inflater.eof or inflater.unused_data:
        raise ManifestError(f"{what} does not end where it is said to")
    return found


def smallest_of(manifest: Manifest) -> tuple[Segment, ...]:
    """Returns the segments of the smallest configuration, equal ones once."""
    needed = (manifest.by_name[name] for name in manifest.ladder[0].segments)
    return tuple({segment.sha256: segment for segment in needed}.values())


def front_bytes(
    manifest: Manifest, contents: Callable[[str], bytes], release: bytes | None = None
) -> bytes:
    """Returns the front with the smallest configuration.

    Args:
      manifest: of the bundle.
      contents: digest -> bytes of that segment.
      release: the document of its release.
    """
    segments = smallest_of(manifest)
    head = Head.of(manifest, segments, document=manifest.to_bytes(), release=release)
    return b"".join([head.to_bytes(), *(contents(segment.sha256) for segment in segments)])


def check_front(data: bytes, manifest: Manifest, source: str) -> None:
    """Does nothing where a front is that of a bundle, whatever its release is.

    A release may be replaced; a front with an older one costs a device one more request.

    Args:
      data: the front.
      manifest: of the bundle.
      source: what to call the front in errors.

    Raises:
      BundleError: it is not.
    """
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        position += count
        if position > len(data):
            raise ManifestError(f"{source} ends after {len(data)} bytes")
        return data[position - count : position]

    try:
        head = read_head(take, source)
        segments = head.segments_of(manifest, source)
        if (head.manifest, head.offset) != (manifest.to_bytes(), 0):
            raise ManifestError("its manifest is another")
        if [s.sha256 for s in segments] != [s.sha256 for s in smallest_of(manifest)]:
            raise ManifestError("it has other segments than the smallest configuration")
        for segment in segments:
            if digest(take(segment.size_bytes)) != segment.sha256:
                raise ManifestError(f"its segment {segment.name!r} is damaged")
        if position != len(data):
            raise ManifestError(f"it goes on after its {position} bytes")
    except ManifestError as error:
        raise BundleError(
            f"{source} is not the front of its bundle ({error}); write or copy the bundle again"
        ) from error
