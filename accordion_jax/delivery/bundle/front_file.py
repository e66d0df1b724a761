"""The front of a bundle in its folder."""

import contextlib
import os
import pathlib

from accordion_jax.delivery.bundle.front import (
    FRONT_NAME,
    MAX_RELEASE_BYTES,
    RELEASE_NAME,
    front_bytes,
)
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.reading import segment_path
from accordion_jax.system.files import mend


def write_front(bundle: str | os.PathLike, manifest: Manifest) -> None:
    """Writes the front of a bundle from what lies there, unless it is there as it should be.

    To be called again whenever the release beside it was replaced.

    Args:
      bundle: its folder.
      manifest: of it.
    """
    bundle = pathlib.Path(bundle)
    release = None
    with contextlib.suppress(FileNotFoundError), (bundle / RELEASE_NAME).open("rb") as file:
        release = file.read(MAX_RELEASE_BYTES + 1)
    if release is not None and not 0 < len(release) <= MAX_RELEASE_BYTES:
        release = None  # no device would take it
    content = front_bytes(
        manifest, lambda sha256: segment_path(bundle, sha256).read_bytes(), release
    )
    mend(bundle / FRONT_NAME, content)
