"""What a device reports of a transfer: events on the way, and the outcome."""

import collections
import dataclasses

from accordion_jax.delivery.device.holding import Holding
from accordion_jax.delivery.device.throughput import ThroughputMeter
from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.planner import Plan


@dataclasses.dataclass(frozen=True)
class Event:
    """Something happened to a device.

    Attributes:
      kind: ``plan`` (the target changed), ``bytes`` (some arrived), ``segment`` (one is whole and
        checked), ``model`` (a newer version has taken over; what runs the old one may go on with
        what it has loaded), ``use`` (another configuration is in use), or ``problem``.
      received_bytes: of segments, since the transfer began, as far as they are in the cache.
      target_bytes: what `received_bytes` will be when the target is reached.
      message: of a problem, for a person.
    """

    kind: str
    received_bytes: int = 0
    target_bytes: int = 0
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a transfer has led to.

    Attributes:
      configuration: name of the one in use; None if not even the smallest is complete.
      expected_error: its top-1 error, from the look-up table.
      transferred_bytes: bodies received, thrown away ones included.
      cached_bytes: of this model's segments that were on the disk before.
      seconds: that it took.
      throughput_bps: measured; None if nothing ever had to be waited for.
      unmet: names of the requirements that could not be met.
      reasons: one a name in `unmet`.
      problems: what went wrong on the way, for a person, in order.
    """

    configuration: str | None
    expected_error: float | None
    transferred_bytes: int
    cached_bytes: int
    seconds: float
    throughput_bps: float | None
    unmet: tuple[str, ...]
    reasons: tuple[str, ...]
    problems: tuple[str, ...]


class Transfer:
    """The books of one transfer.

    Attributes:
      start_s: moment of the device's clock.
      end_s: likewise; None while it runs.
      cached_bytes: of the model's segments that were on the disk before.
      kept_bytes: that went into the cache.
      waiting_bytes: that have come, and have not gone into the cache yet.
      plan: what is wanted now.
      problems: what went wrong, for a person.
      damaged: how often each segment arrived damaged.
    """

    def __init__(self, transport: HttpTransport, start_s: float, cached_bytes: int):
        self.start_s = start_s
        self.end_s: float | None = None
        self.cached_bytes = cached_bytes
        self.kept_bytes = self.waiting_bytes = 0
        self.plan: Plan | None = None
        self.problems: list[str] = []
        self.damaged: collections.Counter[str] = collections.Counter()
        self._transport = transport
        self._bytes_before = transport.body_bytes
        self._bytes: int | None = None

    @property
    def received_bytes(self) -> int:
        """Of segment bodies."""
        if self._bytes is not None:
            return self._bytes
        return self._transport.body_bytes - self._bytes_before

    def too_often_damaged(self, due: str | None, most: int) -> str | None:
        """Counts one more damaged arrival of the segment that is due.

        Returns:
          What to tell a person when it is time to give up; None before.
        """
        if due is None:
            return None
        self.damaged[due] += 1
        if self.damaged[due] < most:
            return None
        return (
            f"segment {due} arrived damaged {most} times; the server's copy, or something on the "
            "way, is broken. Try another server, or write the bundle again"
        )

    def end(self, now_s: float) -> None:
        """Closes the books."""
        self._bytes = self.received_bytes
        self.end_s = now_s

    def outcome(
        self, holding: Holding | None, throughput: ThroughputMeter, now_s: float
    ) -> Outcome:
        """Returns what it has led to so far.

        Args:
          holding: of the model in use; None before there is any.
          throughput: the device's meter.
          now_s: moment of the device's clock.
        """
        in_use = holding.in_use if holding else None
        end_s = now_s if self.end_s is None else self.end_s
        return Outcome(
            configuration=in_use.name if in_use else None,
            expected_error=holding.row(in_use).top1_error if holding and in_use else None,
            transferred_bytes=self.received_bytes,
            cached_bytes=self.cached_bytes,
            seconds=end_s - self.start_s,
            throughput_bps=throughput.bps(end_s),
            unmet=self.plan.unmet if self.plan else (),
            reasons=self.plan.reasons if self.plan else (),
            problems=tuple(self.problems),
        )
