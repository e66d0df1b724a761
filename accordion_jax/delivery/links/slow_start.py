"""What a connection's slow start adds to a transfer.

A sender begins with a window of ten packets (RFC 6928) and doubles it each round trip (RFC 5681,
section 3.1). A window's bytes come when the first of the window before has been acknowledged, and
not before that window is through: on a slow link the sender never waits, and on a fast one small
models pay round trips, not bits. Losses, and the end of slow start, are left out: models of a few
hundred kilobytes are through before.
"""

import numpy as np

from accordion_jax.delivery.links.link import Link

# Ten packets of 1,460 bytes.
INITIAL_WINDOW_BYTES = 14_600


def transfer_time(
    link: Link,
    starts_s: np.ndarray,
    sizes_bytes: np.ndarray,
    *,
    round_trip_s: float,
    window_bytes: int = INITIAL_WINDOW_BYTES,
) -> np.ndarray:
    """Returns [starts, sizes] seconds from the first byte that can come until each size has come.

    Args:
      link: that carries it.
      starts_s: [starts], when the first byte of the connection can come.
      sizes_bytes: [sizes], counted from that byte on.
      round_trip_s: of the connection.
      window_bytes: the first.
    """
    starts_s, sizes_bytes = np.asarray(starts_s, float), np.asarray(sizes_bytes)
    took = np.zeros((len(starts_s), len(sizes_bytes)))
    began = np.zeros_like(starts_s)
    sent, window = 0, window_bytes
    while sent < max(sizes_bytes, default=0):
        inside = (sizes_bytes > sent) & (sizes_bytes <= sent + window)
        now = starts_s + began
        took[:, inside] = began[:, None] + link.transfer_time(
            now[:, None], sizes_bytes[inside] - sent
        )
        through = began + link.transfer_time(now, window)
        began = np.maximum(began + round_trip_s, through)
        sent, window = sent + window, 2 * window
    return took
