"""The device: asks for what it needs, holds what has arrived and was checked, and never stops.

A `Device` turns requirements into segments on its disk. It knows which configurations are complete
and which of them is in use; it runs nothing itself (one of `accordion_jax.delivery.runtimes` does).
Whatever goes wrong on the way, the configuration in use stays in use.

Memory: a device holds one received chunk and the manifest. Segments go from the connection to the
disk; who runs the model reads them one at a time.
"""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.device.cache import SegmentCache
from accordion_jax.delivery.device.events import Event, Outcome, Transfer
from accordion_jax.delivery.device.holding import Holding
from accordion_jax.delivery.device.obtain import obtain_manifest
from accordion_jax.delivery.device.patience import within
from accordion_jax.delivery.device.plans import base_at_least, begun, check_fits, due
from accordion_jax.delivery.device.receiver import Receiver
from accordion_jax.delivery.device.throughput import ThroughputMeter
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import CacheError, DeliveryError, SegmentError, TransportError
from accordion_jax.delivery.links.clock import Clock, RealClock
from accordion_jax.delivery.planner import Plan, Requirements
from accordion_jax.delivery.trust.documents import TrustFile
from accordion_jax.delivery.trust.pins import Pins, read_trust


class Device:
    """One model on one device.

    One thread fetches; any thread may read `in_use`, step down, or stop the fetching.

    Args:
      transport: where segments come from.
      cache: where they are kept. It holds the segments of this model back from eviction until
        `close`.
      clock: that of deadlines and throughput; the transport's must be the same.
      listener: is called with each `Event`, in the thread that caused it. It must not raise.
      refetches: how many times a segment may arrive damaged before the device gives up.
      trust: a trust file, or its path, to pin as what this URL must answer with. What is pinned
        stays so in the cache, with or without it.

    Attributes:
      throughput: the meter, which lives as long as the device.
      pins: which keys are pinned, and what was accepted under them.

    Raises:
      TrustError: `trust` cannot be pinned; says why.
    """

    def __init__(
        self,
        transport: HttpTransport,
        cache: SegmentCache,
        *,
        clock: Clock | None = None,
        listener: Callable[[Event], None] | None = None,
        refetches: int = 3,
        trust: str | os.PathLike | TrustFile | None = None,
    ):
        self.transport = transport
        self.cache = cache
        self.clock = clock or RealClock()
        self.refetches = refetches
        self.throughput = ThroughputMeter()
        self.pins = Pins(cache.folder)
        if trust is not None:
            self.pins.pin(read_trust(trust), str(transport.address))
        self._listeners = [listener] if listener else []
        self._holding: Holding | None = None
        # A newer version, until its first configuration is complete: then it takes over.
        self._newer: Holding | None = None
        self._fetching = threading.Lock()
        self._stop = threading.Event()
        self._transfer = Transfer(transport, self.clock.now(), 0)

    @property
    def holding(self) -> Holding:
        """What is held of the model in use.

        Raises:
          DeliveryError: `connect` was not called, or failed.
        """
        if self._holding is None:
            raise DeliveryError("the device has no manifest yet; call connect() first")
        return self._holding

    @property
    def manifest(self) -> Manifest:
        """Of the model in use. Raises as `holding`."""
        return self.holding.manifest

    @property
    def newer(self) -> Manifest | None:
        """Of a newer version, which fetching is for, and which takes over with its base."""
        return self._newer.manifest if self._newer else None

    @property
    def _target(self) -> Holding:
        """What is held of the model that is fetched."""
        return self._newer or self.holding

    @property
    def in_use(self) -> Configuration | None:
        """The best complete configuration within what the device has stepped down to."""
        return self._holding.in_use if self._holding else None

    def add_listener(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` with each later event."""
        self._listeners.append(listener)

    def connect(
        self,
        model_id: str = "latest",
        *,
        offline: bool = False,
        deadline_s: float | None = None,
        ask: Requirements | None = None,
    ) -> Manifest:
        """Gets the manifest, and finds what of the model is on the disk already.

        The answer goes on with segments, which the next fetch reads. Without a network, the model
        that was in use from this URL is. Each file is hashed; a damaged one is deleted, and so is
        missing. Where there is a newer version than the one in use, that stays in use until the
        first configuration of the newer one has been fetched.

        Args:
          model_id: of the model, or ``latest``.
          offline: does not even try the network.
          deadline_s: from now, after which what is kept must do; however the answer comes.
          ask: what the next fetch will ask for, so that an endpoint sends it at once;
            ``Requirements()`` is the full model. Left out, and from a static server, it sends the
            smallest configuration.

        Returns:
          The manifest of the model in use.

        Raises:
          TransportError: the manifest cannot be had, and none is kept.
          ManifestError: it cannot be read (its version is not known, say), and none is kept.
          TrustError: a pinned key does not vouch for it, and none is kept for which one did.
        """
        if self._holding is not None:
            return self.manifest
        until_s = math.inf if deadline_s is None else self.transport.clock.now() + deadline_s
        found = obtain_manifest(
            self.transport,
            self.cache,
            model_id,
            pins=self.pins,
            offline=offline,
            until_s=until_s,
            on_problem=self._problem,
            requirements=ask,
        )
        self.transport.choose(found.manifest.model_id)
        self.transport.go_on(found.answer)
        # Pinned before they are checked: none may go between the check and its use.
        before = found.kept.by_sha256 if found.kept else {}
        self.cache.pin({*found.manifest.by_sha256, *before})
        wanted = self._held_of(found.manifest)
        kept = self._held_of(found.kept) if found.kept else None
        if kept and kept.complete and not wanted.complete:
            self._holding, self._newer = kept, wanted
        else:
            self._use(wanted)
        self._transfer.cached_bytes = self._target.size_bytes
        self._transfer.end(self.clock.now())
        self._emit("use")
        return self.manifest

    def _held_of(self, manifest: Manifest) -> Holding:
        held = frozenset(sha256 for sha256 in manifest.by_sha256 if self.cache.verify(sha256))
        return Holding(manifest, held)

    def _use(self, holding: Holding) -> None:
        """Puts a model in use, here and for later starts."""
        self._holding, self._newer = holding, None
        self.cache.use_manifest(str(self.transport.address), holding.manifest.model_id)
        self.cache.pin(holding.manifest.by_sha256)

    def fetch(
        self,
        *,
        max_bytes: int | None = None,
        deadline_s: float | None = None,
        throughput_bps: float | None = None,
        max_error: float | None = None,
        max_macs: int | None = None,
        confidence: float | None = None,
        max_memory_bytes: int | None = None,
    ) -> Outcome:
        """Fetches what the requirements ask for, as far as the link lets it.

        The plan is made again after each segment, with the throughput measured so far: the target
        grows on a link that is faster than promised, and shrinks to what can still arrive on a
        slower one. Failures of link, server and disk end the transfer at worst; they are in the
        outcome. What was complete stays in use; the rest stays on the disk, and counts next time.

        Args:
          max_bytes: bound on the bytes received now, those of damaged segments included. What
            `connect` asked for may be on its way already.
          deadline_s: from now. A connection that hangs then is given up at its time-out, which is
            at most `deadline_s` later, or that of `connect`; `fetch_by` is exact.
          throughput_bps: what is expected of the link until it is measured; None takes the last
            measured, and before the first one any plan is worth trying.
          max_error: top-1, 0 to 1: stops at the smallest configuration that reaches it.
          max_macs: bound on multiply-accumulates an image; also on what is in use from now on.
          confidence: plans by upper bounds of the errors, as `Requirements`.
          max_memory_bytes: bound on the unpacked tensors; also on what is in use from now on.

        Raises:
          ValueError: as `Requirements`.
          CacheLimitError: the cache's limit is too small for what is asked for.
        """
        bps = throughput_bps or 0.0
        asked = Requirements(
            max_bytes, deadline_s, bps, max_error, max_macs, confidence, max_memory_bytes
        )
        if max_macs is not None or max_memory_bytes is not None:
            for holding in {self.holding, self._target}:
                holding.limit(max_macs=max_macs, max_memory_bytes=max_memory_bytes)
            self._emit("use")
        until_s = math.inf if deadline_s is None else self.clock.now() + deadline_s

        def choose() -> Plan:
            expected_bps = self.throughput.bps(self.clock.now()) or throughput_bps
            bytes_left = time_left = None
            if max_bytes is not None:
                bytes_left = max(0, max_bytes - self._transfer.received_bytes)
            if deadline_s is not None and expected_bps:
                time_left = max(0.0, until_s - self.clock.now())
            now: dict[str, Any] = {"deadline_s": time_left, "throughput_bps": expected_bps}
            requirements = dataclasses.replace(asked, max_bytes=bytes_left, **now)
            waiting = {self._due: self._transfer.waiting_bytes}
            return base_at_least(
                self._target, requirements, begun(self._target, self.cache, waiting)
            )

        return self._run(choose, until_s)

    def fetch_by(self, deadline_s: float, **requirements) -> Outcome:
        """As `fetch`, but returns at the deadline even if the connection hangs. Real clock only."""
        try:
            return within(
                deadline_s, lambda: self.fetch(deadline_s=deadline_s, **requirements), "fetch"
            )
        except TimeoutError:
            self.stop()
            return self.outcome()

    def upgrade(self, configuration: str | None = None) -> Outcome:
        """Fetches what is missing of a configuration, the full model if none is named.

        Also takes back any step down.

        Raises:
          KeyError: there is no such configuration; lists those there are.
          CacheLimitError: the cache's limit is too small for it.
        """
        manifest = self._target.manifest
        row = manifest.table.row(configuration or manifest.ladder[-1].name)
        wanted = manifest.configurations[row.configuration]
        self.step_up()

        def choose() -> Plan:
            missing = self._target.missing_of(wanted)
            size = sum(segment.size_bytes for segment in missing)
            return Plan(wanted.name, missing, size, row.top1_error, None, None, (), ())

        return self._run(choose, math.inf)

    def step_down(self, *, depth: int | None = None, max_macs: int | None = None) -> Configuration:
        """Uses a smaller configuration from now on, without any network.

        Args:
          depth: blocks to keep at most.
          max_macs: multiply-accumulates an image at most.

        Returns:
          The configuration now in use.

        Raises:
          ValueError: neither is given, or no complete configuration is that small; names the
            smallest. What was in use stays in use.
        """
        found = self.holding.step_down(depth=depth, max_macs=max_macs)
        self._emit("use")
        return found

    def step_up(self) -> None:
        """Takes back any step down."""
        for holding in {self.holding, self._target}:
            holding.limit()
        self._emit("use")

    def stop(self) -> None:
        """Ends a transfer that another thread is in, at its next chunk."""
        self._stop.set()

    def outcome(self) -> Outcome:
        """What the transfer that is running, or the last one, has led to so far."""
        return self._transfer.outcome(self._holding, self.throughput, self.clock.now())

    def forget(self, sha256: str) -> None:
        """A segment turned out to be damaged on the disk: it counts as missing from now on."""
        for holding in {self.holding, self._target}:
            holding.remove(sha256)
        self._problem(f"segment {sha256} was damaged on the disk; the next fetch gets it again")
        self._emit("use")

    def close(self) -> None:
        """Stops, and lets the cache evict this model."""
        self.stop()
        if self._fetching.acquire(blocking=False):  # else whoever fetches ends it
            self.transport.go_on(None)
            self._fetching.release()
        self.cache.close()

    def _run(self, choose: Callable[[], Plan], until_s: float) -> Outcome:
        """Receives what `choose` wants, until it wants nothing more."""
        with self._fetching:
            self._stop.clear()
            transfer = Transfer(self.transport, self.clock.now(), self._target.size_bytes)
            self._transfer = transfer

            def on_segment(sha256: str, waiting_bytes: int) -> Sequence[Segment]:
                self._hold(sha256)
                transfer.waiting_bytes = waiting_bytes
                transfer.plan, transfer.waiting_bytes = choose(), 0
                return transfer.plan.missing

            def on_bytes(size_bytes: int) -> None:
                transfer.kept_bytes += size_bytes
                self._emit("bytes")

            receiver = Receiver(
                self.transport,
                self.cache,
                self.clock,
                self.throughput,
                stopped=self._stop.is_set,
                on_bytes=on_bytes,
                on_segment=on_segment,
            )
            try:
                transfer.plan = choose()
                check_fits(self._target, transfer.plan, self.cache.limit_bytes)
                while transfer.plan.missing and not receiver.over(until_s):
                    self._emit("plan")
                    try:
                        receiver.receive(
                            transfer.plan.missing, until_s, one_at_a_time=bool(transfer.damaged)
                        )
                    except SegmentError as error:
                        self._problem(str(error))
                        due = self._due
                        if too_often := transfer.too_often_damaged(due, self.refetches):
                            self._problem(too_often)
                            break
                    except (TransportError, CacheError, OSError) as error:
                        self._problem(str(error))
                        break
                    transfer.plan = choose()
            finally:
                # What is still on the way is not wanted now.
                self.transport.go_on(None)
                transfer.end(self.clock.now())
        return self.outcome()

    def _hold(self, sha256: str) -> None:
        before, target = self.in_use, self._target
        target.add(sha256)
        if target is self._newer and target.complete:
            self._use(target)
            self._emit("model")
        self._emit("segment")
        if self.in_use != before:
            self._emit("use")

    @property
    def _due(self) -> str | None:
        """Digest of the segment that comes next."""
        return due(self._target, self._transfer.plan)

    def _problem(self, message: str) -> None:
        self._transfer.problems.append(message)
        self._emit("problem", message)

    def _emit(self, kind: str, message: str = "") -> None:
        if not self._listeners:
            return
        kept, left = self._transfer.kept_bytes, 0
        if self._holding and self._transfer.plan and self._transfer.plan.missing:
            held = self._target.held
            left = sum(s.size_bytes for s in self._transfer.plan.missing if s.sha256 not in held)
            due = self._due
            left = max(0, left - (self.cache.received_bytes(due) if due else 0))
        event = Event(kind, kept, kept + left, message)
        for listener in self._listeners:
            listener(event)
