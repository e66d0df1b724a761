import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accordion_jax.delivery.bundle.encodings.symbols import compress, decompress
from accordion_jax.delivery.errors import BundleError


@given(alphabet=st.integers(2, 256), data=st.data(), after=st.binary(max_size=5))
def test_symbols_come_back_and_so_does_what_follows(alphabet, data, after):
    shape = st.integers(0, 60)
    symbols = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, alphabet - 1)))
    found, rest = decompress(compress(symbols, alphabet) + after, len(symbols), alphabet)
    np.testing.assert_array_equal(found, symbols, strict=True)
    assert rest == after


@pytest.mark.parametrize("alphabet", [2, 3, 4, 5, 7, 8, 15, 31, 63, 255])
def test_normal_symbols_take_few_more_bytes_than_their_entropy(alphabet):
    normal = np.random.default_rng(0).normal(size=20_000) * alphabet / 6 + (alphabet - 1) / 2
    symbols = np.clip(np.rint(normal), 0, alphabet - 1).astype(np.uint8)
    share = np.bincount(symbols) / len(symbols)
    entropy_bytes = -(share[share > 0] * np.log2(share[share > 0])).sum() * len(symbols) / 8
    assert entropy_bytes - 1 < len(compress(symbols, alphabet)) < 1.03 * entropy_bytes + 20


def test_zeros_that_repeat_cost_almost_nothing():
    symbols = np.zeros(1_000_000, np.uint8)
    assert len(compress(symbols, 255)) < 1100


@given(alphabet=st.integers(2, 256), data=st.data())
def test_a_stream_that_is_cut_is_refused(alphabet, data):
    symbols = np.random.default_rng(0).integers(0, alphabet, 100, np.int64).astype(np.uint8)
    stream = compress(symbols, alphabet)
    cut = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(BundleError, match="its symbols are"):
        decompress(stream[:cut], 100, alphabet)


@pytest.mark.parametrize(("count", "text"), [(99, "more than 99"), (101, "cut short")])
def test_another_number_of_symbols_is_refused(count, text):
    stream = compress(np.arange(100, dtype=np.uint8), 200)
    with pytest.raises(BundleError, match=text):
        decompress(stream, count, 200)


@pytest.mark.parametrize("alphabet", [3, 5, 9, 255])
def test_a_symbol_of_another_alphabet_is_refused(alphabet):
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = coder.compress(b"\xff" * 4) + coder.flush()
    head = b"\x01" if alphabet <= 16 else b""
    with pytest.raises(BundleError, match=f"a byte of 255; wanted less than {alphabet}"):
        decompress(head + stream, 4, alphabet)


def test_a_byte_of_too_many_symbols_is_refused():
    stream = compress(np.zeros(4, np.uint8), 3)
    for wrong in (b"\x00", b"\x06"):
        with pytest.raises(BundleError, match="wanted 1 to 5 of 3 kinds"):
            decompress(wrong + stream[1:], 4, 3)


@given(stream=st.binary(max_size=200), count=st.integers(0, 500), alphabet=st.integers(2, 256))
def test_any_bytes_give_symbols_or_an_error_of_ours(stream, count, alphabet):
    try:
        symbols, _ = decompress(stream, count, alphabet)
    except BundleError:
        return
    assert symbols.shape == (count,)
    assert not count or symbols.max() < alphabet


def test_a_stream_that_swells_is_not_unpacked():
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = coder.compress(bytes(64 << 20)) + coder.flush()
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="more than 1000 bytes"):
            decompress(bomb, 1000, 255)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(bomb) * 3 + 100_000
