import jax
import numpy as np
import pytest

from accordion_jax.delivery.bundle.encodings.segment import encode_chain, encodings_for
from accordion_jax.delivery.bundle.precision import at_bits
from accordion_jax.delivery.errors import BundleError
from tests.delivery.resnets import make_resnet

BASE = ("stem", "head")
BLOCK = "stage2_block01"


@pytest.fixture(scope="module")
def variables():
    return make_resnet()[1]


def kernel(variables, unit=BLOCK):
    return variables["params"][unit]["conv1"]["kernel"]


def test_variables_go_through_the_bytes_that_are_counted(variables):
    kept = jax.tree.map(np.copy, variables)
    units = [*BASE, *(unit for unit in variables["params"] if unit not in BASE)]
    found, sizes = at_bits(variables, dict.fromkeys(units, 8) | {BLOCK: 4}, base_names=BASE)
    jax.tree.map(np.testing.assert_array_equal, variables, kept)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    assert sizes.keys() == {"base", *units[2:]}
    for unit, bits in ((BLOCK, 4), ("stage3_block01", 8)):
        off = np.median(np.abs(kernel(found, unit) - kernel(variables, unit)))
        assert 0.1 < off * 2**bits < 0.5
        assert len(np.unique(kernel(found, unit)[..., 0])) <= 2**bits - 1
    arrays = {
        f"{BLOCK}/{collection[0]}/{layer}/{name}": array
        for layer in ("conv1", "conv2", "norm1", "norm2")
        for collection in (("params",), ("batch_stats",))
        for name, array in variables[collection[0]][BLOCK].get(layer, {}).items()
    }
    (alone,) = encode_chain(arrays, [encodings_for(arrays, 4)])
    assert abs(sizes[BLOCK][0] - len(alone)) <= 3  # the order of the arrays is another
    mean = variables["batch_stats"][BLOCK]["norm1"]["mean"]
    after = found["batch_stats"][BLOCK]["norm1"]["mean"]
    np.testing.assert_array_equal(after, mean.astype(np.float16).astype(np.float32))


def test_a_unit_that_is_not_asked_for_keeps_its_values(variables):
    found, sizes = at_bits(variables, {BLOCK: 2}, base_names=BASE)
    assert sizes.keys() == {BLOCK}
    rest = jax.tree.map(np.array_equal, found, variables)
    changed = rest["params"].pop(BLOCK)
    rest["batch_stats"].pop(BLOCK)
    assert not changed["conv1"]["kernel"]
    assert all(jax.tree.leaves(rest))


def test_steps_of_a_segment_can_be_received_one_by_one(variables):
    bits = {"stem": (8, 8), "head": (8, 8), BLOCK: (2, 4, 8)}
    found = {}
    for received in (1, 2, 3):
        found[received], sizes = at_bits(
            variables, bits, base_names=BASE, received={BLOCK: received}
        )
        assert len(sizes[BLOCK]) == 3
    whole, whole_sizes = at_bits(variables, bits, base_names=BASE)
    alone, _ = at_bits(variables, {BLOCK: 8}, base_names=BASE)
    assert whole_sizes == sizes
    np.testing.assert_array_equal(kernel(found[3]), kernel(whole))
    np.testing.assert_array_equal(kernel(whole), kernel(alone))
    errors = [np.mean((kernel(each) - kernel(variables)) ** 2) for each in found.values()]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert len(np.unique(kernel(found[1])[..., 0])) <= 4


def test_what_makes_no_sense_is_refused(variables):
    with pytest.raises(BundleError, match="no 9 bits"):
        at_bits(variables, {BLOCK: 9}, base_names=BASE)
    with pytest.raises(ValueError, match=r"'base' has units of .*'stem': 2.* wanted one or more"):
        at_bits(variables, {"stem": (4, 8), "head": 8}, base_names=BASE)
    with pytest.raises(ValueError, match="wanted one or more"):
        at_bits(variables, {BLOCK: ()}, base_names=BASE)
    with pytest.raises(ValueError, match="no parameters of 'stage9'"):
        at_bits(variables, {"stage9": 4}, base_names=BASE)
