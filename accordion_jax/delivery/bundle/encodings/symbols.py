"""Lossless coding of small integers: several a byte, then Huffman's code.

Symbols of an alphabet of up to sixteen are packed as digits of a byte: a code of whole bits then
comes nearer to the entropy, and there are fewer bytes to decode. In short streams fewer digits are
better, since a code for many kinds of bytes takes room itself; so a stream says how many it has.
The bytes are coded with *deflate* (RFC 1951), which is in Python's standard library, in blocks that
have Huffman codes of their own. On trained weights this is 0.8 to 1.2 % above the entropy, where
Zstandard is 1.1 to 1.5 % above it.

A reader says how many symbols it wants, and no more are unpacked. NumPy and zlib only.
"""

import functools
import zlib

import numpy as np

from accordion_jax.delivery.errors import BundleError

_LARGEST_PACKED = 16
# More digits are faster to decode: this is what they may cost.
_PACKED_MAY_COST = 1.003
# Ways to look for repetitions: none at all, which trained weights are best with; runs, and any,
# which may help where most weights are zero.
_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY)
_RAW = -zlib.MAX_WBITS  # no header and no checksum: segments have a digest


def compress(symbols: np.ndarray, alphabet: int) -> bytes:
    """Returns symbols as one deflate stream, the shortest of some.

    Args:
      symbols: [n] uint8, each below `alphabet`.
      alphabet: 2 to 256.
    """
    most = _most_digits(alphabet)
    streams = []
    for digits in range(most, 0, -1):
        stream = _deflate(_pack(symbols, alphabet, digits).tobytes())
        streams.append(bytes([digits]) + stream if most > 1 else stream)
    least = min(map(len, streams))
    return next(stream for stream in streams if len(stream) <= _PACKED_MAY_COST * least)


def decompress(stream: bytes, count: int, alphabet: int) -> tuple[np.ndarray, bytes]:
    """Returns symbols, and what follows their stream.

    Args:
      stream: begins with what `compress` returned.
      count: of the symbols that are wanted.
      alphabet: as in `compress`.

    Returns:
      [count] uint8, each below `alphabet`, and the rest of the bytes.

    Raises:
      BundleError: it is no deflate stream, is cut, has another number of symbols, or one that is
        not of the alphabet. At most one byte more than is wanted is unpacked before it says so.
    """
    digits = _most_digits(alphabet)
    if digits > 1:
        if not 1 <= (given := int.from_bytes(stream[:1])) <= digits:
            raise BundleError(
                f"its symbols are packed {given} a byte; wanted 1 to {digits} of {alphabet} kinds; "
                "fetch it again"
            )
        digits, stream = given, stream[1:]
    wanted = -(-count // digits)
    decoder = zlib.decompressobj(_RAW)
    try:
        packed = decoder.decompress(stream, wanted + 1)
    except zlib.error as error:
        raise BundleError(f"its symbols are damaged ({error}); fetch it again") from error
    if len(packed) != wanted or not decoder.eof:
        at_least = "more than" if len(packed) > wanted else "cut short or made of"
        raise BundleError(
            f"its symbols are {at_least} {min(len(packed), wanted)} bytes; wanted {wanted}: "
            f"{count} symbols of {alphabet} kinds; fetch it again"
        )
    return _unpack(np.frombuffer(packed, np.uint8), count, alphabet, digits), decoder.unused_data


def _deflate(content: bytes) -> bytes:
    streams = []
    for strategy in _STRATEGIES:
        # Level 9 of memory: a block is 32,768 bytes, so that its codes are few of them.
        coder = zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, strategy)
        streams.append(coder.compress(content) + coder.flush())
    return min(streams, key=len)


@functools.cache
def _most_digits(alphabet: int) -> int:
    """How many symbols a byte takes; 1 of a large alphabet, which gains nothing by it."""
    digits = 1
    while alphabet <= _LARGEST_PACKED and alphabet ** (digits + 1) <= 256:
        digits += 1
    return digits


def _pack(symbols: np.ndarray, alphabet: int, digits: int) -> np.ndarray:
    padded = np.zeros(-(-len(symbols) // digits) * digits, np.uint8)
    padded[: len(symbols)] = symbols
    weights = (alphabet ** np.arange(digits)).astype(np.uint8)
    # The sum is below 256: that is what `_most_digits` says.
    return (padded.reshape(-1, digits) * weights).sum(axis=1, dtype=np.uint8)


def _unpack(packed: np.ndarray, count: int, alphabet: int, digits: int) -> np.ndarray:
    if packed.size and int(packed.max()) >= alphabet**digits:
        raise BundleError(
            f"its symbols have a byte of {int(packed.max())}; wanted less than {alphabet**digits}: "
            f"{digits} of {alphabet} kinds; fetch it again"
        )
    if digits == 1:
        return packed[:count]
    # Clipping is faster than looking for what is out of range, and no byte is.
    return _digits(alphabet, digits).take(packed, axis=0, mode="clip").reshape(-1)[:count]


@functools.cache
def _digits(alphabet: int, digits: int) -> np.ndarray:
    """The digits of each byte, [256, digits] uint8."""
    values = np.arange(256)[:, None] // alphabet ** np.arange(digits) % alphabet
    table = values.astype(np.uint8)
    table.flags.writeable = False
    return table
