"""How fast a link is, judged by what arrived lately."""

import collections


class ThroughputMeter:
    """Bits a second over a sliding window.

    Bytes over time, so the harmonic mean of the momentary rates weighted by bytes: it does not
    overrate a link of short bursts, as an arithmetic mean of rates would (Jiang et al. 2012,
    FESTIVE), and an outage lowers it while it lasts.

    Args:
      window_s: how far back it looks.
      settle_s: from the begin of a transfer until it trusts what it sees.
    """

    def __init__(self, *, window_s: float = 3.0, settle_s: float = 0.05):
        self.window_s = window_s
        self.settle_s = settle_s
        # (moment, bytes since the begin of the transfer); the first is the window's edge.
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._before: float | None = None

    def begin(self, now_s: float) -> None:
        """A transfer begins; time in which nothing was asked for does not count."""
        self._before = self.bps(now_s)
        self._marks.clear()
        self._marks.append((now_s, 0))

    def end(self, now_s: float) -> None:
        """The transfer is over: what was measured, however briefly, holds until the next."""
        moment, received = self._marks[0]
        if now_s > moment and self._marks[-1][1] > received:
            self._before = 8 * (self._marks[-1][1] - received) / (now_s - moment)
        self._marks.clear()

    def add(self, now_s: float, size_bytes: int) -> None:
        """`size_bytes` arrived just now."""
        total = self._marks[-1][1] + size_bytes
        # One mark every hundredth of the window is enough.
        if len(self._marks) > 1 and now_s - self._marks[-2][0] < self.window_s / 100:
            self._marks.pop()
        self._marks.append((now_s, total))
        while len(self._marks) > 2 and self._marks[1][0] <= now_s - self.window_s:
            self._marks.popleft()

    def bps(self, now_s: float) -> float | None:
        """Bits a second; None if nothing was ever measured."""
        if self._marks:
            moment, received = self._marks[0]
            if now_s - moment >= self.settle_s:
                return 8 * (self._marks[-1][1] - received) / (now_s - moment)
        return self._before
