"""A packed segment by what its manifest says of it. NumPy only."""

from accordion_jax.delivery.bundle.encodings.segment import Encoded, read, refine
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.bundle.statistics import check_values
from accordion_jax.delivery.errors import BundleError


def unpack(segment: Segment, content: bytes, before: Encoded | None) -> Encoded:
    """Returns the encoded tensors of a segment that has a layout.

    Args:
      segment: of the manifest.
      content: of its file, whose digest the caller has checked.
      before: what it refines; None where it refines nothing.

    Raises:
      BundleError: as `read` and `refine`; or `before` is not here, or own statistics are none.
    """
    if segment.refines is None:
        assert segment.layout is not None
        encoded = read(content, segment.layout, segment.sha256)
        if segment.is_statistics:
            check_values(encoded.arrays())
        return encoded
    if before is None:
        raise BundleError(f"it refines {segment.refines!r}, which is not here")
    return refine(before, content, segment.sha256)
