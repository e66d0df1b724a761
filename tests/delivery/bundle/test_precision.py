import jax
import numpy as np
import pytest

from accordion_jax.delivery.bundle.encodings.segment import read
from accordion_jax.delivery.bundle.folding import fold_norms, norms_to_measure
from accordion_jax.delivery.bundle.precision import Chains, with_measured_norms
from accordion_jax.delivery.errors import BundleError
from accordion_jax.training.within import cells
from tests.delivery.resnets import make_resnet

BASE = ("stem", "head")
BLOCK = "stage2_block01"


@pytest.fixture(scope="module")
def variables():
    return make_resnet()[1]


def kernel(variables, unit=BLOCK):
    return variables["params"][unit]["conv1"]["kernel"]


@pytest.fixture(scope="module")
def blocks(variables):
    return tuple(unit for unit in variables["params"] if unit not in BASE)


def test_variables_go_through_the_bytes_that_are_counted(variables, blocks):
    kept = jax.tree.map(np.copy, variables)
    chains = Chains(variables, base_names=BASE, block_names=blocks, bits=[4])
    jax.tree.map(np.testing.assert_array_equal, variables, kept)
    found = chains.variables({})
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    assert chains.names == ("base", *blocks)
    off = np.median(np.abs(kernel(found) - kernel(variables)))
    assert 0.1 < off * 2**4 < 0.5
    assert len(np.unique(kernel(found)[..., 0])) <= 2**4 - 1
    piece = chains.piece(BLOCK, 0)
    assert (piece.unit, piece.bits, chains.segment(BLOCK, 0)) == (BLOCK, 4, BLOCK)
    assert chains.size_bytes(BLOCK, 0) == len(piece.content)
    decoded = read(piece.content, piece.layout).arrays()
    np.testing.assert_array_equal(decoded["conv1/kernel"], kernel(found))
    mean = variables["batch_stats"][BLOCK]["norm1"]["mean"]
    after = found["batch_stats"][BLOCK]["norm1"]["mean"]
    np.testing.assert_array_equal(after, mean.astype(np.float16).astype(np.float32))


def test_each_segment_has_steps_of_its_own(variables, blocks):
    chains = Chains(variables, base_names=BASE, block_names=blocks, bits=[2, 4, 8])
    other = "stage3_block01"
    found = [chains.variables({BLOCK: step, other: 1}) for step in range(3)]
    for each in found:
        np.testing.assert_array_equal(kernel(each, other), kernel(found[0], other))
        np.testing.assert_array_equal(
            each["params"]["head"]["kernel"], found[0]["params"]["head"]["kernel"]
        )
    errors = [np.mean((kernel(each) - kernel(variables)) ** 2) for each in found]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert len(np.unique(kernel(found[0])[..., 0])) <= 3
    # The last step is what its bits give by themselves.
    alone = Chains(variables, base_names=BASE, block_names=blocks, bits=[8])
    np.testing.assert_array_equal(kernel(alone.variables({})), kernel(found[2]))
    assert [chains.segment(BLOCK, step) for step in range(3)] == [
        *(BLOCK, f"{BLOCK}.4", f"{BLOCK}.8")
    ]


def test_a_block_s_own_head_has_8_bits_from_the_first_step_on(blocks):
    variables = make_resnet(own_heads=True)[1]
    chains = Chains(variables, base_names=BASE, block_names=blocks, bits=[4, 6])
    found = [chains.variables(dict.fromkeys(blocks, step))["params"] for step in range(2)]
    for unit in blocks:
        whole = variables["params"][unit]["head"]["kernel"]
        first, second = (each[unit]["head"]["kernel"] for each in found)
        np.testing.assert_array_equal(first, second)
        off = np.abs(first - whole).max() / np.ptp(whole)
        assert off < 1 / 200
        rest = [each[unit]["conv1"]["kernel"] for each in found]
        assert np.any(rest[0] != rest[1])
        assert len(np.unique(rest[0][..., 0])) <= 2**4 - 1
    # It is paid for once, and little.
    plain = Chains(make_resnet()[1], base_names=BASE, block_names=blocks, bits=[4, 6])
    for unit in blocks:
        weights = variables["params"][unit]["head"]["kernel"].size
        assert chains.size_bytes(unit, 0) < plain.size_bytes(unit, 0) + 1.1 * weights + 60
        assert chains.size_bytes(unit, 1) < plain.size_bytes(unit, 1) + 12
    whole = Chains(variables, base_names=BASE, block_names=blocks, bits=[32]).variables({})
    jax.tree.map(np.testing.assert_array_equal, whole["params"], dict(variables["params"]))


def test_what_makes_no_sense_is_refused(variables, blocks):
    def make(bits, block_names=blocks):
        return Chains(variables, base_names=BASE, block_names=block_names, bits=bits)

    with pytest.raises(BundleError, match="no 9 bits"):
        make([9])
    for bits in ([], [8, 4], [4, 4]):
        with pytest.raises(ValueError, match=r"wanted one number or several that grow"):
            make(bits)
    with pytest.raises(ValueError, match="no parameters of 'stage9'"):
        make([4], ("stage9",))


@pytest.fixture(scope="module")
def refined(variables):
    """A network within the levels of 4 bits of another, with norms and a head bias of its own."""
    rng = np.random.default_rng(0)
    ends = cells(variables["params"], 4)

    def moved(leaf, least, most):
        if leaf.ndim < 2:
            return leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = 0.3 * np.std(leaf)
        return np.clip(leaf + rng.normal(0, spread, leaf.shape), least, most).astype(np.float32)

    params = jax.tree.map(moved, dict(variables["params"]), ends["least"], ends["most"])
    statistics = jax.tree.map(lambda x: x * np.float32(1.2), variables["batch_stats"])
    return {"params": params, "batch_stats": statistics}


def test_a_network_may_be_sent_as_the_refinement_of_another(variables, refined, blocks):
    names = {"base_names": BASE, "block_names": blocks}

    def chained(variables, bits, **more):
        return with_measured_norms(variables, dict, **names, bits=bits, **more)

    both = chained(refined, [4, 8], first=variables)
    alone = Chains(fold_norms(variables), **names, bits=[4])
    first, last = (both.variables(dict.fromkeys(both.names, step)) for step in range(2))
    for unit in blocks:
        # But for the few whose scales a bundle chooses otherwise, the first bits are its own.
        here, there = (kernel(each, unit) for each in (first, alone.variables({})))
        assert np.mean(np.isclose(here, there, atol=0.15 * np.std(there))) > 0.9
        assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.99
    images = np.random.default_rng(1).normal(size=(8, 32, 32, 3)).astype(np.float32)
    model = make_resnet()[0]
    wanted, found = (model.apply(each, images) for each in (refined, last))
    assert np.abs(found - wanted).max() < 0.05 * np.std(wanted)
    other = model.apply(variables, images)
    assert np.abs(wanted - other).max() > 0.5 * np.std(wanted)
    # It costs what the refinement of a network by itself does, and norms anew.
    own = chained(variables, [4, 8])
    for unit in blocks:
        assert both.size_bytes(unit, 0) < 1.05 * own.size_bytes(unit, 0)
        norms = 4 * sum(np.size(x) for x in jax.tree.leaves(refined["batch_stats"][unit]))
        assert both.size_bytes(unit, 1) < 1.15 * own.size_bytes(unit, 1) + norms


def test_a_network_folded_by_another_answers_as_before(variables, refined):
    other = jax.tree.map(np.copy, variables)
    other["params"][BLOCK]["norm1"]["scale"][:2] = 0, -1
    model = make_resnet()[0]
    images = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)
    wanted = model.apply(refined, images)
    found = model.apply(fold_norms(refined, other), images)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.std(wanted))
    own, by = fold_norms(other), fold_norms(refined, other)
    ratio = kernel(by)[..., 1] / np.where(kernel(own)[..., 1] == 0, 1, kernel(own)[..., 1])
    plain = kernel(refined)[..., 1] / kernel(other)[..., 1]
    np.testing.assert_allclose(ratio, plain, rtol=1e-3)
    # What is measured of it keeps the sign that its kernels were folded with.
    measured = norms_to_measure(refined, by, other)["params"][BLOCK]["norm1"]["scale"]
    scale = refined["params"][BLOCK]["norm1"]["scale"]
    np.testing.assert_array_equal(measured[:2], [abs(scale[0]), -scale[1]])


def test_a_step_may_have_norms_of_its_own(variables, blocks):
    def norms_times(factor):
        return jax.tree.map(lambda x: x * np.float32(factor) if x.ndim < 2 else x, variables)

    names = {"base_names": BASE, "block_names": blocks, "bits": [2, 4, 8]}
    own = Chains(variables, **names, norms={0: norms_times(0.8), 1: norms_times(0.9)})
    shared = Chains(variables, **names)
    for step, factor in ((0, 0.8), (1, 0.9), (2, 1.0)):
        found, other = (each.variables({BLOCK: step}) for each in (own, shared))
        np.testing.assert_array_equal(kernel(found), kernel(other))
        wanted = variables["batch_stats"][BLOCK]["norm1"]["mean"] * factor
        after = found["batch_stats"][BLOCK]["norm1"]["mean"]
        np.testing.assert_allclose(after, wanted, atol=0.01 * np.abs(wanted).max())
    # The last step is as it is without them; they cost a byte a number there, and two of each.
    np.testing.assert_array_equal(
        *(each.variables({BLOCK: 2})["params"][BLOCK]["norm1"]["bias"] for each in (own, shared))
    )
    assert own.size_bytes(BLOCK, 0) < shared.size_bytes(BLOCK, 0)
    assert own.size_bytes(BLOCK, 2) > shared.size_bytes(BLOCK, 2)
