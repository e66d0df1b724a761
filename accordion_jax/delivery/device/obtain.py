"""How a device comes by its manifest: from the network, or from the last time."""

import contextlib
from collections.abc import Callable

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import ManifestError, TransportError


def obtain_manifest(
    transport: HttpTransport,
    cache: SegmentCache,
    model_id: str,
    *,
    offline: bool,
    on_problem: Callable[[str], None],
) -> Manifest:
    """Returns a manifest that was checked, and keeps it in the cache.

    Args:
      transport: asks for it. An endpoint does not send what is kept already.
      cache: keeps the last manifest of each URL.
      model_id: of the model, or ``latest``. What has an id (the URL may name it too) never changes:
        if that is kept, the network is not needed.
      offline: takes the kept one.
      on_problem: is told why the kept one had to do.

    Raises:
      TransportError: the manifest cannot be had, and none is kept.
      ManifestError: it cannot be read, and none is kept.
    """
    expected = transport.model_id if model_id == "latest" else model_id
    source, kept = str(transport.address), _kept(transport, cache, expected)
    if kept is not None and (offline or expected is not None):
        return kept
    if offline:
        raise TransportError(
            f"no manifest from {source} is kept in {cache.folder}; fetch once while the network "
            "is there"
        )
    try:
        document = transport.manifest(model_id, known=kept.model_id if kept else None)
        if document is None and kept is not None:
            return kept
        manifest = Manifest.from_bytes(document or b"", source=source, expected_id=expected)
    except (TransportError, ManifestError) as error:
        if kept is None:
            raise
        on_problem(f"{error}; going on with the manifest kept from the last time")
        return kept
    cache.save_manifest(source, manifest.model_id, manifest.to_bytes())
    return manifest


def _kept(transport: HttpTransport, cache: SegmentCache, model_id: str | None) -> Manifest | None:
    document = cache.load_manifest(str(transport.address), model_id)
    # One that was damaged on the disk, or is of another version of this package, is one more thing
    # to fetch again.
    with contextlib.suppress(ManifestError):
        return Manifest.from_bytes(document, expected_id=model_id) if document else None
    return None
