"""The bytes of a segment: its tensors encoded, or the bits that refine another's.

::

    tensors     1 | a code a tensor | what each tensor has beside its symbols | streams of symbols
    refinement  2 | 8 bytes of the SHA-256 of what it refines | a code a tensor | ... | streams
                3 | the same, residuals of what is about zero in streams of their own

A code is a byte, of `ENCODINGS`. Tensors come in the order of the layout. In a refinement, a
tensor whose code is the held one's stays; one that goes from integers to more bits has new scales
and residuals (`refinement`); any other is sent anew. Symbols of all tensors with equally many
levels are one stream, so that a small segment does not pay for many of Huffman's codes.

What is read comes from a network: names and shapes are the caller's, no more memory is taken than
a few times what the layout says, and whatever is wrong is a BundleError.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from accordion_jax.delivery.bundle.encodings import ENCODINGS
from accordion_jax.delivery.bundle.encodings.contract import Layout, Tensor, check_finite
from accordion_jax.delivery.bundle.encodings.integers import LEVELS, Quantised, matrix_shape
from accordion_jax.delivery.bundle.encodings.plain import Constant
from accordion_jax.delivery.bundle.encodings.refinement import (
    intervals,
    read_residuals,
    refined,
    residuals,
    write_residuals,
)
from accordion_jax.delivery.bundle.encodings.symbols import compress, decompress
from accordion_jax.delivery.errors import BundleError

_TENSORS = b"\x01"
# A refinement -> whether what is about zero has streams of its own: shorter where much is zero.
_REFINEMENTS = {b"\x02": False, b"\x03": True}
# Against a mistake; that bytes are those that were meant, the manifest's digests say.
_DIGEST_BYTES = 8
_BY_CODE = {encoding.code: encoding for encoding in ENCODINGS.values()}
_NAMES = {encoding.code: name for name, encoding in ENCODINGS.items()}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A segment's tensors, encoded: what a device holds of it.

    Attributes:
      tensors: name -> encoded tensor, in the order of their bytes.
      sha256: hexadecimal; of the segment that was read last, the last refinement if there were any;
        "" where none was read.
    """

    tensors: Mapping[str, Tensor]
    sha256: str = ""

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the tensors by name, float32."""
        return {name: tensor.array() for name, tensor in self.tensors.items()}

    @property
    def encodings(self) -> dict[str, str]:
        """Name of each tensor's encoding."""
        return {name: _NAMES[tensor.code] for name, tensor in self.tensors.items()}


def encodings_for(arrays: Mapping[str, np.ndarray], bits: int) -> dict[str, str]:
    """Returns name -> encoding that suits each array where weights are to have so many bits.

    Arrays of two axes or more are weights of products. The others (biases, statistics) are float16:
    that costs a network nothing that can be measured, where 8 bits cost half of what they cost the
    weights. What is all zeros or all ones is not sent. With 32 bits, all else is float32.

    Args:
      arrays: of a segment.
      bits: 1 to 8, 16 or 32.

    Raises:
      BundleError: there is no such encoding.
    """
    if bits not in (*LEVELS, 16, 32):
        raise BundleError(f"there are no {bits} bits a weight; wanted 1 to 8, 16 or 32")
    exact = "float32" if bits == 32 else "float16"
    chosen = {}
    for name, array in arrays.items():
        rest = f"int{bits}" if bits in LEVELS and np.ndim(array) > 1 else exact
        if rest == "float16" and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            rest = "float32"
        constants = (n for n, e in ENCODINGS.items() if isinstance(e, Constant) and e.fits(array))
        chosen[name] = next(constants, rest)
    return chosen


def encode(
    arrays: Mapping[str, np.ndarray], encodings: Mapping[str, str], finer: Encoded | None = None
) -> Encoded:
    """Returns arrays, encoded.

    Args:
      arrays: of a segment, float32.
      encodings: name -> name of its encoding, a key of `ENCODINGS`.
      finer: the same arrays in more bits, which a refinement is to make of the result.

    Raises:
      BundleError: an array cannot be encoded so; names it.
    """
    check_finite(arrays.items())
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        encoding = ENCODINGS.get(encodings[name])
        if encoding is None:
            raise BundleError(
                f"array {name!r} wants the encoding {encodings[name]!r}; there are "
                f"{sorted(ENCODINGS)}"
            )
        try:
            tensors[name] = encoding.encode(
                np.asarray(array, np.float32), finer.tensors[name] if finer else None
            )
        except BundleError as error:
            raise BundleError(f"array {name!r} cannot be {encodings[name]}: {error}") from error
    return Encoded(tensors)


def write(encoded: Encoded) -> bytes:
    """Returns the bytes of a segment; `read` is the inverse."""
    tensors = list(encoded.tensors.values())
    return b"".join([_TENSORS, _codes(encoded), *_heads(tensors), *_symbols(tensors)])


def write_refinement(coarse: Encoded, fine: Encoded, refines: str) -> bytes:
    """Returns the bytes that make fine tensors of coarse ones; `refine` is the inverse.

    Args:
      coarse: encoded with `finer=fine`.
      fine: the same arrays.
      refines: hexadecimal SHA-256 of the segment, or refinement, that a device has read to hold
        the coarse ones.

    Raises:
      BundleError: the coarse tensors were not made from the fine ones.
    """
    pairs = [(coarse.tensors[name], new) for name, new in fine.tensors.items()]
    changed = [(old, new) for old, new in pairs if new.code != old.code]
    parts = [bytes.fromhex(refines)[:_DIGEST_BYTES], _codes(fine)]
    parts += _heads(new for _, new in changed)
    parts += _symbols(new for old, new in changed if not _refinable(old, new))
    same = b"".join(parts)
    refined_pairs = [pair for old, new in changed if (pair := _refinable(old, new))]
    ways = (
        kind + same + _residuals(refined_pairs, zero_apart)
        for kind, zero_apart in _REFINEMENTS.items()
    )
    return min(ways, key=len)


def read(content: bytes, layout: Layout, sha256: str = "") -> Encoded:
    """Returns the tensors of a segment.

    Args:
      content: as `write` returned it.
      layout: of the segment, as its manifest says.
      sha256: hexadecimal, of the content, where the caller has checked it; else it is found.

    Raises:
      BundleError: it is no such segment, or damaged, or of another layout.
    """
    reader = _Reader(content)
    if (kind := reader.take(1)) != _TENSORS:
        raise BundleError(f"it begins with {kind!r}; wanted {_TENSORS!r}, encoded tensors")
    codes = reader.take(len(layout.shapes))
    tensors = {
        name: _read_head(name, shape, code, reader)
        for (name, shape), code in zip(layout.shapes.items(), codes, strict=True)
    }
    tensors |= _read_symbols(tensors, reader)
    reader.finish()
    return Encoded(tensors, sha256 or hashlib.sha256(content).hexdigest())


def refine(coarse: Encoded, content: bytes, sha256: str = "") -> Encoded:
    """Returns what a refinement makes of tensors; those stay as they are.

    Args:
      coarse: as `read` or `refine` returned it.
      content: of the refinement, as `write_refinement` returned it.
      sha256: hexadecimal, of the content, where the caller has checked it; else it is found.

    Raises:
      BundleError: it is no refinement, or damaged, or refines another segment.
    """
    reader = _Reader(content)
    if (kind := reader.take(1)) not in _REFINEMENTS:
        wanted = " or ".join(map(repr, _REFINEMENTS))
        raise BundleError(f"it begins with {kind!r}; wanted {wanted}, a refinement")
    refines, held = reader.take(_DIGEST_BYTES).hex(), coarse.sha256[: 2 * _DIGEST_BYTES]
    if refines != held:
        raise BundleError(
            f"it refines the segment {refines}..., not the one that is held, {held}...; fetch the "
            "one that it names, or the refinement of this one"
        )
    codes = reader.take(len(coarse.tensors))
    changed = {
        name: _read_head(name, old.shape, code, reader)
        for (name, old), code in zip(coarse.tensors.items(), codes, strict=True)
        if code != old.code
    }
    added = {
        name: pair
        for name, new in changed.items()
        if (pair := _refinable(coarse.tensors[name], new))
    }
    renewed = {name: new for name, new in changed.items() if name not in added}
    changed |= _read_symbols(renewed, reader)
    changed |= _read_residuals(added, reader, _REFINEMENTS[kind])
    reader.finish()
    digest = sha256 or hashlib.sha256(content).hexdigest()
    return Encoded({**coarse.tensors, **changed}, digest)


class _Reader:
    """Goes through the bytes of a segment."""

    def __init__(self, content: bytes):
        self._content, self._at = content, 0

    def take(self, count: int) -> bytes:
        """Returns the next bytes; raises BundleError where there are not so many."""
        found = self._content[self._at : self._at + count]
        if len(found) != count:
            raise BundleError(
                f"it ends after {len(self._content)} bytes; wanted {count} from {self._at} on. It "
                "is cut short, or of another layout; fetch it again"
            )
        self._at += count
        return found

    def rest(self) -> bytes:
        """Returns all bytes that are left, and stays where it is."""
        return self._content[self._at :]

    def leave(self, rest: bytes) -> None:
        """Goes on where only these bytes are left."""
        self._at = len(self._content) - len(rest)

    def finish(self) -> None:
        """Raises BundleError where there are bytes that nothing has read."""
        if self._at != len(self._content):
            raise BundleError(
                f"it has {len(self._content)} bytes, of which only {self._at} mean something; it "
                "is damaged, or of another layout; fetch it again"
            )


def _refinable(old: Tensor, new: Tensor) -> tuple[Quantised, Quantised] | None:
    """Returns both where the new one is the old one in more bits; None: it is sent anew."""
    if isinstance(old, Quantised) and isinstance(new, Quantised) and new.bits > old.bits:
        return old, new
    return None


def _codes(encoded: Encoded) -> bytes:
    return bytes(tensor.code for tensor in encoded.tensors.values())


def _heads(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    return (tensor.content for tensor in tensors)


def _symbols(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    """Yields a stream for all tensors of equally many levels, in the order of their first ones."""
    for levels, some in _by_levels(tensors).items():
        symbols = np.concatenate([tensor.indices.reshape(-1) for tensor in some])
        if symbols.size:
            yield compress(symbols, levels)


def _by_levels(tensors: Iterable[Tensor]) -> dict[int, list[Quantised]]:
    groups: dict[int, list[Quantised]] = {}
    for tensor in tensors:
        if isinstance(tensor, Quantised):
            groups.setdefault(tensor.levels, []).append(tensor)
    return groups


def _read_head(name: str, shape: tuple[int, ...], code: int, reader: _Reader) -> Tensor:
    """Returns a tensor without its indices."""
    if code not in _BY_CODE:
        raise BundleError(
            f"tensor {name!r} has the encoding {code}, which is not known here; there are "
            f"{sorted(_BY_CODE)}"
        )
    try:
        return _BY_CODE[code].read(shape, reader.take)
    except BundleError as error:
        raise BundleError(f"tensor {name!r} as {_NAMES[code]}: {error}") from error


def _read_symbols(tensors: Mapping[str, Tensor], reader: _Reader) -> dict[str, Quantised]:
    """Returns those in integers, with their indices."""
    complete: dict[int, Quantised] = {}
    for levels, some in _by_levels(tensors.values()).items():
        sizes = [math.prod(matrix_shape(tensor.shape)) for tensor in some]
        if not sum(sizes):
            symbols = np.empty(0, np.uint8)
        else:
            symbols, rest = decompress(reader.rest(), sum(sizes), levels)
            reader.leave(rest)
        for tensor, part in zip(some, _split(symbols, sizes), strict=True):
            complete[id(tensor)] = tensor.with_indices(part)
    return {name: complete[id(t)] for name, t in tensors.items() if id(t) in complete}


def _residuals(pairs: Sequence[tuple[Quantised, Quantised]], zero_apart: bool) -> bytes:
    """The streams of what refines tensors; the inverse of `_read_residuals`."""
    if not pairs:
        return b""
    added = [residuals(*pair, zero_apart) for pair in pairs]
    residual = np.concatenate([each.reshape(-1) for each, _ in added])
    return b"".join(write_residuals(residual, [found for _, found in added]))


def _read_residuals(
    pairs: Mapping[str, tuple[Quantised, Quantised]], reader: _Reader, zero_apart: bool
) -> dict[str, Tensor]:
    """Returns refined tensors.

    Args:
      pairs: name -> what is held, and what is wanted without its indices; in layout order.
      reader: of the streams.
      zero_apart: as in `intervals`.
    """
    if not pairs:
        return {}
    found = {name: intervals(*pair, zero_apart) for name, pair in pairs.items()}
    residual, rest = read_residuals(reader.rest(), list(found.values()))
    reader.leave(rest)
    parts = _split(residual, [each.kind.size for each in found.values()])
    return {
        name: refined(*pair, part, found[name])
        for (name, pair), part in zip(pairs.items(), parts, strict=True)
    }


def _split(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    ends = list(itertools.accumulate(sizes))
    return [values[end - size : end] for end, size in zip(ends, sizes, strict=True)]
