"""How a device comes by its manifest: from the network, or from the last time."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.patience import within
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import (
    ConnectionLostError,
    ManifestError,
    RefusedError,
    TransportError,
    TrustError,
)
from accordion_jax.delivery.trust.pins import Pins

_T = TypeVar("_T")
# A release has a kilobyte or two: a server that takes longer than this will not end.
_RELEASE_S = 60.0


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
    pins: Pins,
    offline: bool,
    until_s: float,
    on_problem: Callable[[str], None],
) -> Obtained:
    """Returns a manifest that was checked, and keeps it in the cache.

    Where a key is pinned, it is one that the key vouches for; nothing of another is used or kept.

    Args:
      transport: asks for it. An endpoint does not send what is kept already.
      cache: keeps manifests, and which of them was last in use from each URL.
      model_id: of the model, or ``latest``. What has an id (the URL may name it too) never changes:
        if that is kept, the network is not needed.
      pins: what the device has pinned.
      offline: takes the kept one.
      until_s: moment of the transport's clock at which the kept one must do.
      on_problem: is told why the kept one had to do, and of what is amiss with it.

    Raises:
      TransportError: the manifest cannot be had (in time), and none is kept.
      ManifestError: it cannot be read, and none is kept.
      TrustError: a key is pinned that does not vouch for it, and none is kept for which one did.
    """
    expected = transport.model_id if model_id == "latest" else model_id
    source, kept = str(transport.address), _kept(transport, cache, expected)
    usable = _usable(kept, pins, source, on_problem)
    if usable is not None and (offline or expected is not None):
        return Obtained(usable)
    if offline and kept is not None:
        raise TrustError(
            f"model {kept.model_id} from {source} is kept in {cache.folder}, but was fetched "
            "before a key was pinned; fetch once while the network is there"
        )
    if offline:
        raise TransportError(
            f"no manifest from {source} is kept in {cache.folder}; fetch once while the network "
            "is there"
        )
    try:
        manifest = _ask(transport, model_id, kept, pins, until_s, expected)
    except (TransportError, ManifestError, TrustError) as error:
        if usable is None:
            raise
        on_problem(f"{error}; going on with the manifest kept from the last time")
        return Obtained(usable)
    cache.save_manifest(manifest.model_id, manifest.to_bytes())
    return Obtained(manifest, usable if usable and usable.model_id != manifest.model_id else None)


def _usable(
    kept: Manifest | None, pins: Pins, source: str, on_problem: Callable[[str], None]
) -> Manifest | None:
    """What is kept, unless a key is pinned and it was not accepted under one."""
    if kept is None or not pins.is_pinned:
        return kept
    try:
        accepted = pins.accepted(kept.model_id, source)
    except TrustError as error:
        # Nobody can tell any more. It ran until now, and a device never stands without a model.
        on_problem(f"{error}; going on with the model kept from the last time")
        return kept
    if accepted is None:
        return None
    if overdue := accepted.overdue(pins.now()):
        on_problem(overdue)
    return kept


def _ask(
    transport: HttpTransport,
    model_id: str,
    kept: Manifest | None,
    pins: Pins,
    until_s: float,
    expected: str | None,
) -> Manifest:
    """A manifest from the network; the kept one, if that is what is there."""
    source = str(transport.address)
    line = pins.line_of(source) if pins.is_pinned else None
    known = kept.model_id if kept else None
    document = _in_time(
        lambda: transport.manifest(model_id, known=known, line=line, until_s=until_s),
        transport,
        until_s,
        "manifest",
    )
    if document is None and kept is not None:
        manifest = kept
    else:
        manifest = Manifest.from_bytes(document or b"", source=source, expected_id=expected)
    # For the kept one too: whether it is still the latest, and which keys count, changes.
    if line is not None:
        until_s = min(until_s, transport.clock.now() + _RELEASE_S)
        pins.accept(_release(transport, manifest, line, until_s), manifest.model_id, source)
    return manifest


def _release(transport: HttpTransport, manifest: Manifest, line: str, until_s: float) -> bytes:
    try:
        return _in_time(
            lambda: transport.release(manifest.model_id, until_s=until_s),
            transport,
            until_s,
            "release",
        )
    except RefusedError as error:
        raise TrustError(
            f"model {manifest.model_id} comes with no signed release ({error}), and this device "
            f"has pinned keys of line {line!r}"
        ) from error


def _in_time(work: Callable[[], _T], transport: HttpTransport, until_s: float, what: str) -> _T:
    if math.isinf(until_s):
        return work()
    left_s = max(0.0, until_s - transport.clock.now())
    try:
        return within(left_s, work, what)
    except TimeoutError:
        raise ConnectionLostError(
            f"{transport.address} sent no whole {what} in the {left_s:.2f} s that there were"
        ) from None


def _kept(transport: HttpTransport, cache: SegmentCache, model_id: str | None) -> Manifest | None:
    document = cache.load_manifest(str(transport.address), model_id)
    # One that was damaged on the disk, or is of another version of this package, is one more thing
    # to fetch again.
    with contextlib.suppress(ManifestError):
        return Manifest.from_bytes(document, expected_id=model_id) if document else None
    return None
