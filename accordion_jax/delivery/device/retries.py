"""How long a device keeps trying."""

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Retries:
    """How long to keep trying.

    Attributes:
      attempts: in a row without progress, before giving up; the first is one of them.
      first_wait_s: before the second attempt; doubles with each.
      longest_wait_s: where the doubling stops.
    """

    attempts: int = 5
    first_wait_s: float = 0.2
    longest_wait_s: float = 5.0

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after `failures` attempts in a row, drawn from the upper half."""
        longest = min(self.first_wait_s * 2 ** (failures - 1), self.longest_wait_s)
        # Many devices that lost the same cell must not come back at the same moment.
        return longest * random.uniform(0.5, 1.0)
