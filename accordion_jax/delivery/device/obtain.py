"""How a device comes by its manifest: from the network, or from the last time."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.patience import within
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import ConnectionLostError, ManifestError, TransportError


@dataclasses.dataclass(frozen=True)
class Obtained:
    """What there is to choose from.

    Attributes:
      manifest: of the model that was asked for.
      kept: of the one that was in use from there until now; None if that is the same, or none.
    """

    manifest: Manifest
    kept: Manifest | None = None


def obtain_manifest(
    transport: HttpTransport,
    cache: SegmentCache,
    model_id: str,
    *,
    offline: bool,
    until_s: float,
    on_problem: Callable[[str], None],
) -> Obtained:
    """Returns a manifest that was checked, and keeps it in the cache.

    Args:
      transport: asks for it. An endpoint does not send what is kept already.
      cache: keeps manifests, and which of them was last in use from each URL.
      model_id: of the model, or ``latest``. What has an id (the URL may name it too) never changes:
        if that is kept, the network is not needed.
      offline: takes the kept one.
      until_s: moment of the transport's clock at which the kept one must do.
      on_problem: is told why the kept one had to do.

    Raises:
      TransportError: the manifest cannot be had (in time), and none is kept.
      ManifestError: it cannot be read, and none is kept.
    """
    expected = transport.model_id if model_id == "latest" else model_id
    source, kept = str(transport.address), _kept(transport, cache, expected)
    if kept is not None and (offline or expected is not None):
        return Obtained(kept)
    if offline:
        raise TransportError(
            f"no manifest from {source} is kept in {cache.folder}; fetch once while the network "
            "is there"
        )
    known = kept.model_id if kept else None
    try:
        document = _ask(transport, model_id, known, until_s)
        if document is None and kept is not None:
            return Obtained(kept)
        manifest = Manifest.from_bytes(document or b"", source=source, expected_id=expected)
    except (TransportError, ManifestError) as error:
        if kept is None:
            raise
        on_problem(f"{error}; going on with the manifest kept from the last time")
        return Obtained(kept)
    cache.save_manifest(manifest.model_id, manifest.to_bytes())
    return Obtained(manifest, kept if kept and kept.model_id != manifest.model_id else None)


def _ask(
    transport: HttpTransport, model_id: str, known: str | None, until_s: float
) -> bytes | None:
    def ask() -> bytes | None:
        return transport.manifest(model_id, known=known, until_s=until_s)

    if math.isinf(until_s):
        return ask()
    left_s = max(0.0, until_s - transport.clock.now())
    try:
        return within(left_s, ask, "manifest")
    except TimeoutError:
        raise ConnectionLostError(
            f"{transport.address} sent no whole manifest in the {left_s:.2f} s that there were"
        ) from None


def _kept(transport: HttpTransport, cache: SegmentCache, model_id: str | None) -> Manifest | None:
    document = cache.load_manifest(str(transport.address), model_id)
    # One that was damaged on the disk, or is of another version of this package, is one more thing
    # to fetch again.
    with contextlib.suppress(ManifestError):
        return Manifest.from_bytes(document, expected_id=model_id) if document else None
    return None
