"""The two files: a trust file is a chain of roots, a release file a release with that chain.

The chain comes with each release, so that a device that has pinned an older root can follow the
rotations since, in one request.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from accordion_jax.delivery.bundle.front import MAX_RELEASE_BYTES, RELEASE_NAME
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust.envelope import checked, parsed
from accordion_jax.delivery.trust.statements import Root, SignedRelease, SignedRoot

MAX_ROOTS = 64


def _version(remedy: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda v: type(v) is int and v == 1), f"1: upgrade accordion_jax, or {remedy}"


_TRUST_VERSION = _version("make the file again with the same keys, in the same steps")
_RELEASE_VERSION = _version("sign the bundle again (--release_version=N, as it was)")


@dataclasses.dataclass(frozen=True)
class TrustFile:
    """Roots of one line, each the successor of the one before.

    Attributes:
      roots: oldest first, at least one.
    """

    roots: tuple[SignedRoot, ...]

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the trust file") -> "TrustFile":
        """Reads a trust file, and checks no signature.

        Raises:
          TrustError: it is none; names the source, the value, and what was wanted.
        """
        fields = checked(
            parsed(data, source, MAX_RELEASE_BYTES),
            {
                "format": (lambda v: v == "accordion-trust", "'accordion-trust'"),
                "format_version": _TRUST_VERSION,
                "roots": _ROOTS,
            },
            source,
        )
        return cls.from_list(fields["roots"], source)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "TrustFile":
        """Reads a trust file from the disk.

        Raises:
          FileNotFoundError: there is none.
          TrustError: as `from_bytes`.
        """
        return cls.from_bytes(read_bounded(path), str(path))

    @classmethod
    def from_list(cls, documents: Sequence[Any], source: str) -> "TrustFile":
        """Reads a chain of roots, as `from_bytes`."""
        roots = tuple(
            SignedRoot.from_dict(each, f"root {number} in {source}")
            for number, each in enumerate(documents, 1)
        )
        for before, after in itertools.pairwise(roots):
            if after.root.line != before.root.line:
                raise TrustError(
                    f"{source} has roots of the lines {before.root.line!r} and "
                    f"{after.root.line!r}; wanted one line"
                )
            if after.root.version != before.root.version + 1:
                raise TrustError(
                    f"{source} has root {before.root.version} and then {after.root.version}; "
                    "wanted each to follow the one before"
                )
        return cls(roots)

    @property
    def latest(self) -> Root:
        """The root that counts."""
        return self.roots[-1].root

    def verify(self, source: str) -> None:
        """Does nothing if each root is signed by its own keys and by those before.

        Raises:
          TrustError: one is not; says which, and how many signatures are missing of whom.
        """
        for before, after in itertools.pairwise((None, *self.roots)):
            assert after is not None
            check_successor(before, after, source)

    def version(self, number: int) -> SignedRoot | None:
        """Returns the root of a version; None if the file does not have it."""
        place = number - self.roots[0].root.version
        return self.roots[place] if 0 <= place < len(self.roots) else None

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the JSON form of the chain."""
        return [each.envelope.to_dict() for each in self.roots]

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        return _written({"format": "accordion-trust", "format_version": 1, "roots": self.to_list()})


@dataclasses.dataclass(frozen=True)
class ReleaseFile:
    """What lies in a bundle as ``release.json``."""

    signed: SignedRelease
    trust: TrustFile

    @classmethod
    def from_bytes(cls, data: bytes, source: str = RELEASE_NAME) -> "ReleaseFile":
        """Reads a release file, and checks no signature.

        Raises:
          TrustError: it is none; names the source, the value, and what was wanted.
        """
        fields = checked(
            parsed(data, source, MAX_RELEASE_BYTES),
            {
                "format": (lambda v: v == "accordion-release", "'accordion-release'"),
                "format_version": _RELEASE_VERSION,
                "release": (lambda v: isinstance(v, dict), "an envelope"),
                "roots": _ROOTS,
            },
            source,
        )
        return cls(
            SignedRelease.from_dict(fields["release"], source),
            TrustFile.from_list(fields["roots"], source),
        )

    @classmethod
    def read(cls, bundle: str | os.PathLike) -> "ReleaseFile":
        """Reads that of a bundle's folder.

        Raises:
          FileNotFoundError: it has none.
          TrustError: as `from_bytes`.
        """
        path = pathlib.Path(bundle) / RELEASE_NAME
        return cls.from_bytes(read_bounded(path), str(path))

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        return _written(
            {
                "format": "accordion-release",
                "format_version": 1,
                "release": self.signed.envelope.to_dict(),
                "roots": self.trust.to_list(),
            }
        )


def check_successor(before: SignedRoot | None, after: SignedRoot, source: str) -> None:
    """Does nothing if a root is signed as the successor of another must be.

    Raises:
      TrustError: it is not.
    """
    if missing := after.missing_signatures(before):
        raise TrustError(
            f"{source}: version {after.root.version} of the trust file of line "
            f"{after.root.line!r} does not count: {' and '.join(missing)}"
        )


def read_bounded(path: str | os.PathLike) -> bytes:
    """Returns the content of a file of this kind, and of a larger one enough to refuse it."""
    with pathlib.Path(path).open("rb") as file:
        return file.read(MAX_RELEASE_BYTES + 1)


_ROOTS = (
    lambda v: isinstance(v, list) and 1 <= len(v) <= MAX_ROOTS,
    f"a list of 1 to {MAX_ROOTS} roots",
)


def _written(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
