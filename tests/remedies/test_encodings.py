"""What encodings tell people to do helps."""

import hashlib

import numpy as np
import pytest

from accordion_jax.delivery.bundle.encodings.chain import encode_chain
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import (
    encode,
    encodings_for,
    read,
    refine,
    write,
)
from accordion_jax.delivery.errors import BundleError


def kernel(seed=0):
    return {"kernel": np.random.default_rng(seed).normal(size=(3, 3, 8, 8)).astype(np.float32)}


def refinable(seed=0):
    """(layout, base, refinement) of a kernel in 4 and in 8 bits."""
    arrays = kernel(seed)
    base, refinement = encode_chain(arrays, [encodings_for(arrays, bits) for bits in (4, 8)])
    return Layout.of(arrays), base, refinement


@pytest.mark.tries("holds up to {}, not {}; use float32")
def test_large_numbers_are_kept_in_float32():
    arrays = {"bias": np.full(3, 1e6, np.float32)}
    with pytest.raises(BundleError, match="use float32"):
        encode(arrays, {"bias": "float16"})
    found = read(write(encode(arrays, {"bias": "float32"})), Layout.of(arrays)).arrays()
    np.testing.assert_array_equal(found["bias"], arrays["bias"])


@pytest.mark.tries("not all of its numbers are {}; use float16 or float32")
@pytest.mark.parametrize("encoding", ["float16", "float32"])
def test_numbers_that_differ_are_kept_in_floats(encoding):
    arrays = {"bias": np.array([0.0, 1.0], np.float32)}
    with pytest.raises(BundleError, match="use float16 or float32"):
        encode(arrays, {"bias": "zeros"})
    found = read(write(encode(arrays, {"bias": encoding})), Layout.of(arrays)).arrays()
    np.testing.assert_array_equal(found["bias"], arrays["bias"])


@pytest.mark.tries("in both: give it another encoding in one of them")
def test_what_changes_from_step_to_step_is_sent_in_two_encodings():
    coarse, fine = ({**kernel(), "bias": np.full(8, value, np.float32)} for value in (0.25, 0.5))
    encodings = [encodings_for(coarse, bits) for bits in (4, 8)]
    with pytest.raises(BundleError, match=r"'bias' changes from step 0 .* is float16 in both"):
        encode_chain([coarse, fine], encodings)
    contents = encode_chain([coarse, fine], [encodings[0] | {"bias": "int8"}, encodings[1]])
    held = read(contents[0], Layout.of(coarse))
    np.testing.assert_allclose(held.arrays()["bias"], 0.25, rtol=0.01)
    np.testing.assert_array_equal(refine(held, contents[1]).arrays()["bias"], 0.5)


@pytest.mark.tries("a number in it is not finite; write the bundle again")
def test_a_segment_of_damaged_numbers_is_written_again():
    arrays = {"bias": np.array([0.5, 1.5], np.float32)}
    encoded = encode(arrays, {"bias": "float32"})
    damaged = write(encoded).replace(np.float32(1.5).tobytes(), np.float32(np.inf).tobytes())
    with pytest.raises(BundleError, match="write the bundle again"):
        read(damaged, Layout.of(arrays))
    found = read(write(encoded), Layout.of(arrays)).arrays()
    np.testing.assert_array_equal(found["bias"], arrays["bias"])


@pytest.mark.tries("fetch the one that it names, or the refinement of this one")
def test_a_refinement_is_read_onto_the_segment_that_it_names_or_another_one_is():
    layout, base, refinement = refinable()
    _, other, of_other = refinable(seed=1)
    with pytest.raises(BundleError, match="fetch the one that it names") as said:
        refine(read(other, layout), refinement)
    named = hashlib.sha256(base).hexdigest()
    assert any(
        named.startswith(word.strip(".,")) for word in str(said.value).split() if len(word) > 9
    )
    refine(read(base, layout), refinement)
    refine(read(other, layout), of_other)


@pytest.mark.tries("cut short or made of", "are packed {} a byte", "are damaged ({}); fetch it")
def test_symbols_that_are_cut_are_fetched_again():
    layout, base, _ = refinable()
    with pytest.raises(BundleError, match="fetch it again"):
        read(base[:-3], layout)
    np.testing.assert_allclose(read(base, layout).arrays()["kernel"], kernel()["kernel"], atol=1.0)
