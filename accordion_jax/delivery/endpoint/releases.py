"""Releases beside the bundles of a store: which model is which version of which line.

The endpoint trusts nobody and checks no signature; devices do. It reads what is said, to tell which
model is the latest, and sends the file as it is.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust.documents import RELEASE_NAME, ReleaseFile

_OLDEST = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class StoredRelease:
    """A release file as it lies in a bundle.

    Attributes:
      body: its bytes.
      line: that it says the model is of.
      version: that it says the model is.
    """

    body: bytes
    line: str
    version: int

    @classmethod
    def read(cls, body: bytes, model_id: str) -> "StoredRelease":
        """Reads a release file of this model.

        Raises:
          TrustError: it is none, or of another model.
        """
        source = f"{model_id}/{RELEASE_NAME}"
        release = ReleaseFile.from_bytes(body, source).signed.release
        if release.model_id != model_id:
            raise TrustError(f"{source} is of model {release.model_id}; sign this bundle again")
        return cls(body, release.line, release.version)


class Model(Protocol):
    """What can be put in order."""

    @property
    def manifest(self) -> Manifest:
        """Of the model."""

    @property
    def created(self) -> datetime.datetime | None:
        """When it came there; None if nobody knows."""


_M = TypeVar("_M", bound=Model)


def latest_first(models: Sequence[_M], releases: Mapping[str, StoredRelease]) -> Sequence[_M]:
    """Returns models in the order of preference.

    Those with a release come before all without, so that what somebody drops beside them changes
    nothing: lines by the age of their highest version, the newest first; within a line the highest
    version first. Among the others, one that no other follows comes before all that are followed;
    among these, the newest first.
    """
    followed = {model.manifest.follows for model in models}
    tops: dict[str, tuple[int, datetime.datetime]] = {}
    for model in models:
        if release := releases.get(model.manifest.model_id):
            this = (release.version, model.created or _OLDEST)
            tops[release.line] = max(tops.get(release.line, this), this)

    def order(model: _M) -> tuple:
        release = releases.get(model.manifest.model_id)
        return (
            release is not None,
            tops[release.line][1] if release else _OLDEST,
            release.line if release else "",
            release.version if release else 0,
            model.manifest.model_id not in followed,
            model.created or _OLDEST,
            model.manifest.model_id,
        )

    return sorted(models, key=order, reverse=True)
