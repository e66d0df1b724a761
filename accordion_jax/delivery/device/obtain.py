"""How a device comes by its manifest: from the network, or from the last time.

One request is enough: its answer has the manifest, who vouches for it, and the first segments.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.opening import OpenAnswer, Opening
from accordion_jax.delivery.device.patience import within
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import (
    ConnectionLostError,
    ManifestError,
    RefusedError,
    TransportError,
    TrustError,
)
from accordion_jax.delivery.planner import Requirements
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
      answer: in which segments of the wanted one are on the way; None where they are not.
    """

    manifest: Manifest
    kept: Manifest | None = None
    answer: OpenAnswer | None = None


def obtain_manifest(
    transport: HttpTransport,
    cache: SegmentCache,
    model_id: str,
    *,
    pins: Pins,
    offline: bool,
    until_s: float,
    on_problem: Callable[[str], None],
    requirements: Requirements | None = None,
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
      requirements: for which an endpoint then sends segments; None: those of the smallest
        configuration.

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
        line = pins.line_of(source) if pins.is_pinned else None
        request = _Request(transport, model_id, kept, pins, until_s, expected, line)
        found = request.open(_opening(requirements, cache, kept, line), on_problem)
    except (TransportError, ManifestError, TrustError) as error:
        if usable is None:
            raise
        on_problem(f"{error}; going on with the manifest kept from the last time")
        return Obtained(usable)
    cache.save_manifest(found.manifest.model_id, found.manifest.to_bytes())
    is_other = usable and usable.model_id != found.manifest.model_id
    return dataclasses.replace(found, kept=usable if is_other else None)


def _opening(
    requirements: Requirements | None,
    cache: SegmentCache,
    kept: Manifest | None,
    line: str | None,
) -> Opening:
    """What the first request says; a segment that is then found damaged is asked for later."""
    held, part = frozenset[str](), None
    if kept is not None:
        held = frozenset(sha256 for sha256 in kept.by_sha256 if cache.path(sha256).exists())
        first = next((s.sha256 for s in kept.segments if s.sha256 not in held), None)
        if first is not None and (received_bytes := cache.received_bytes(first)):
            part = first, received_bytes
    return Opening(
        requirements,
        known=kept.model_id if kept else None,
        held=held,
        part=part,
        line=line,
        wants_release=line is not None,
    )


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


@dataclasses.dataclass(frozen=True)
class _Request:
    """What is asked of the network; arguments as of `obtain_manifest`.

    Attributes:
      line: that is pinned for the source; None if there is none.
    """

    transport: HttpTransport
    model_id: str
    kept: Manifest | None
    pins: Pins
    until_s: float
    expected: str | None
    line: str | None

    def open(self, opening: Opening, on_problem: Callable[[str], None]) -> Obtained:
        """All in one request; where that cannot be had, the manifest alone."""
        try:
            answer = self._in_time(
                lambda: self.transport.open(self.model_id, opening, until_s=self.until_s),
                "manifest",
            )
            if answer is not None:
                return self._read(answer)
        except ConnectionLostError:
            raise
        except (TransportError, ManifestError) as error:
            found = self._alone()
            on_problem(f"{error}; the manifest had to be asked for by itself")
            return found
        return self._alone()

    def _read(self, answer: OpenAnswer) -> Obtained:
        """What an answer has, checked; the answer is closed where it is not used."""
        source = str(self.transport.address)
        with contextlib.ExitStack() as stack:
            stack.callback(answer.close)
            head = answer.head
            if head.manifest is not None:
                manifest = Manifest.from_bytes(
                    head.manifest, source=source, expected_id=self.expected
                )
            elif self.kept is not None:
                manifest = self.kept
            else:
                raise ManifestError(f"{source} sent no manifest, and none is kept here")
            segments = head.segments_of(manifest, f"the front from {source}")
            if self.line is not None:
                self._accept(manifest, head.release)
            answer.expect(segments)
            stack.pop_all()
        return Obtained(manifest, answer=answer)

    def _alone(self) -> Obtained:
        """The manifest by itself; the kept one, if that is what is there."""
        source, known = str(self.transport.address), self.kept.model_id if self.kept else None
        document = self._in_time(
            lambda: self.transport.manifest(
                self.model_id, known=known, line=self.line, until_s=self.until_s
            ),
            "manifest",
        )
        if document is None and self.kept is not None:
            manifest = self.kept
        else:
            manifest = Manifest.from_bytes(
                document or b"", source=source, expected_id=self.expected
            )
        # For the kept one too: whether it is still the latest, and which keys count, changes.
        if self.line is not None:
            self._accept(manifest, None)
        return Obtained(manifest)

    def _accept(self, manifest: Manifest, release: bytes | None) -> None:
        """Has the pins accept a model, by the release that came with it or the one that is there.

        That in a front on a web server may be older than the one beside it.
        """
        source = str(self.transport.address)
        if release is not None:
            try:
                self.pins.accept(release, manifest.model_id, source)
                return
            except TrustError:
                if self.transport.streams:
                    raise
        self.pins.accept(self._release(manifest), manifest.model_id, source)

    def _release(self, manifest: Manifest) -> bytes:
        until_s = min(self.until_s, self.transport.clock.now() + _RELEASE_S)
        try:
            return self._in_time(
                lambda: self.transport.release(manifest.model_id, until_s=until_s),
                "release",
                until_s,
            )
        except RefusedError as error:
            raise TrustError(
                f"model {manifest.model_id} comes with no signed release ({error}), and this "
                f"device has pinned keys of line {self.line!r}"
            ) from error

    def _in_time(self, work: Callable[[], _T], what: str, until_s: float | None = None) -> _T:
        until_s = self.until_s if until_s is None else until_s
        if math.isinf(until_s):
            return work()
        left_s = max(0.0, until_s - self.transport.clock.now())
        try:
            return within(left_s, work, what)
        except TimeoutError:
            raise ConnectionLostError(
                f"{self.transport.address} sent no whole {what} in the {left_s:.2f} s that there "
                "were"
            ) from None


def _kept(transport: HttpTransport, cache: SegmentCache, model_id: str | None) -> Manifest | None:
    document = cache.load_manifest(str(transport.address), model_id)
    # One that was damaged on the disk, or is of another version of this package, is one more thing
    # to fetch again.
    with contextlib.suppress(ManifestError):
        return Manifest.from_bytes(document, expected_id=model_id) if document else None
    return None
