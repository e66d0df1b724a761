"""Numbers on a command line: finite, within a bound, and written as people write them.

::

  _LINK_BPS = flags.DEFINE(numbers.Number(1), "link_bps", None, "Bits a second.")
  _MAX_BYTES = flags.DEFINE(numbers.WholeNumber(0), "max_bytes", None, "Bytes.")

A flag's last part is its unit: ``_s`` seconds, ``_bytes`` bytes, ``_bps`` bits a second.
"""

import math

from absl import flags


class Number(flags.FloatParser):
    """Takes finite numbers: ``0.3``, ``1e6``."""

    def convert(self, argument: float | int | str) -> float:
        """Returns the number.

        Raises:
          ValueError: it is none, or not finite.
        """
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError(f"{argument} is not finite; leave the flag out for no bound")
        return value


class WholeNumber(flags.IntegerParser):
    """Takes whole numbers, in floating-point form too: ``5000000``, ``5e6``."""

    def convert(self, argument: int | str) -> int:
        """Returns the number.

        Raises:
          ValueError: it is none, or not whole.
        """
        try:
            return super().convert(argument)
        except ValueError:
            value = float(argument)
            if not value.is_integer():
                raise ValueError(f"{argument} is not a whole number") from None
            return int(value)
