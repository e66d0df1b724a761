"""Sparse kernels: what is read is what was written, quantised; damage is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.encodings.integers import Integer
from accordion_jax.delivery.errors import BundleError
from benchmarks.compositions.sparse import _gaps, _places, read_sparse, write_sparse

SHAPES = {"one": (3, 3, 4, 8), "two": (1, 1, 2, 5)}


def kernels_of(share, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * (rng.random(shape) >= share)).astype(np.float32)
        for name, shape in shapes.items()
    }


@given(
    share=st.sampled_from([0.0, 0.5, 0.75, 0.9, 1.0]),
    bits=st.integers(2, 8),
    seed=st.integers(0, 9),
)
def test_what_is_read_is_what_the_encoding_makes_of_it(share, bits, seed):
    kernels = kernels_of(share, seed)
    content = write_sparse(kernels, bits)
    found = read_sparse(content, {name: x.shape for name, x in kernels.items()})
    assert found.keys() == kernels.keys()
    for name, x in kernels.items():
        np.testing.assert_array_equal(found[name], Integer(bits).encode(x, None).array())
        assert not found[name][x == 0].any()


@given(st.lists(st.booleans(), max_size=2000))
def test_gaps_say_where_weights_are(there):
    there = np.array(there, bool)
    np.testing.assert_array_equal(_places(_gaps(there)), np.flatnonzero(there))


@pytest.mark.parametrize("run", [0, 1, 254, 255, 256, 510, 511, 100_000])
def test_long_runs_of_zeros_are_several_symbols(run):
    there = np.zeros(run + 5, bool)
    there[[run, run + 1]] = True
    np.testing.assert_array_equal(_places(_gaps(there)), [run, run + 1])


def test_fewer_weights_are_fewer_bytes():
    shape = {"kernel": (3, 3, 64, 64)}
    sizes = [len(write_sparse(kernels_of(share, shapes=shape), 8)) for share in (0, 0.5, 0.75, 0.9)]
    assert sizes == sorted(sizes, reverse=True)
    # Three quarters are zero: the mask's entropy is 0.81 bits a weight, a weight's below 8.
    weights = 9 * 64 * 64
    assert sizes[2] < weights * (0.85 + 8 / 4) / 8 + 200


def test_a_stream_that_is_cut_is_refused():
    content = write_sparse(kernels_of(0.5), 4)
    with pytest.raises(BundleError):
        read_sparse(content[:-3], SHAPES)
