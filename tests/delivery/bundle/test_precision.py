import jax
import numpy as np
import pytest

from accordion_jax.delivery.bundle.cutting import tree_of
from accordion_jax.delivery.bundle.encodings.segment import read
from accordion_jax.delivery.bundle.folding import fold_norms, norms_to_measure
from accordion_jax.delivery.bundle.precision import Chains, with_measured_norms
from accordion_jax.delivery.bundle.sent_bits import SentBits, read_sent_bits
from accordion_jax.delivery.errors import BundleError
from accordion_jax.training.within import ends
from tests.delivery.resnets import make_resnet, write_chained, write_resnet

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


SIZE = 1.7


def variables_of(sent):
    """Those of the network that is out."""
    found = {}
    for unit in sent.pieces:
        prefix = "" if unit == "base" else f"{unit}/"
        for collection, units in tree_of(prefix, sent.encoded(unit).arrays()).items():
            found.setdefault(collection, {}).update(units)
    return found


def sent_of(chains):
    steps = range(len(chains.bits))
    return SentBits(
        chains.bits,
        {name: tuple(chains.piece(name, step) for step in steps) for name in chains.names},
    )


@pytest.fixture(scope="module")
def out(variables, blocks):
    """What is out of a network: its first 3 bits, and what makes 4 of them."""
    names = {"base_names": BASE, "block_names": blocks}
    return sent_of(with_measured_norms(variables, dict, **names, bits=[3, 4]))


@pytest.fixture(scope="module")
def refined(out):
    """A network within the levels of what is out, larger, with norms and a head bias of its own."""
    rng = np.random.default_rng(0)
    levels, held = out.levels(), variables_of(out)

    def moved(leaf, center, spacing):
        if leaf.ndim < 2:
            return (leaf + rng.normal(0, 0.2, leaf.shape)).astype(np.float32)
        spread = 0.3 * np.std(leaf)
        some = leaf + rng.normal(0, spread, leaf.shape).astype(np.float32)
        return np.clip(some, *ends(center, spacing, out.bits[-1]))

    params = jax.tree.map(moved, held["params"], levels["center"], levels["spacing"])
    for unit in params.values():
        for name, layer in unit.items():
            if name.startswith("conv"):
                layer["kernel"] *= np.float32(SIZE)
    # Mean and variance of what is as much larger.
    statistics = jax.tree.map(lambda x: (x + np.float32(0.2)) * SIZE**2, held["batch_stats"])
    return {"params": params, "batch_stats": statistics}


def sizes_of(params):
    """Of each array: how many times as large as in what is out."""
    return jax.tree.map_with_path(
        lambda path, _: SIZE if "conv" in jax.tree_util.keystr(path) else 1.0, params
    )


@pytest.mark.parametrize("bits", [[3, 4, 8], [3, 4, 5, 6]])
def test_a_network_may_be_sent_as_the_refinement_of_what_is_out(out, refined, blocks, bits):
    names = {"base_names": BASE, "block_names": blocks}
    how = {"sent": out.pieces, "sizes": sizes_of(refined["params"])}
    both = with_measured_norms(refined, dict, **names, bits=bits, **how)
    first, last = (both.variables(dict.fromkeys(both.names, s)) for s in (1, len(bits) - 1))
    # To the byte.
    assert sent_of(both).up_to(4) == out
    jax.tree.map(np.testing.assert_array_equal, first, variables_of(out))
    for unit in blocks:
        wanted = kernel(refined, unit) / np.float32(SIZE)
        off = [np.mean(np.square(kernel(each, unit) - wanted)) for each in (first, last)]
        assert off[1] < 0.15 * off[0]
    if bits[-1] == 8:  # fewer have norms that want measuring
        images = np.random.default_rng(1).normal(size=(8, 32, 32, 3)).astype(np.float32)
        model = make_resnet()[0]
        wanted, found, other = (model.apply(each, images) for each in (refined, last, first))
        assert np.abs(found - wanted).mean() < 0.1 * np.std(wanted)
        assert np.abs(other - wanted).mean() > 0.5 * np.std(wanted)
    # It costs what the refinement of a network by itself does, and norms anew.
    own = with_measured_norms(refined, dict, **names, bits=bits)
    for unit in blocks:
        norms = 4 * sum(np.size(x) for x in jax.tree.leaves(refined["batch_stats"][unit]))
        for step in range(2, len(bits)):
            assert both.size_bytes(unit, step) < 1.25 * own.size_bytes(unit, step) + norms


@pytest.mark.tries("give the bundle that the run began with")
def test_what_is_out_of_another_network_is_refused(out, refined, blocks):
    names = {"base_names": BASE, "block_names": blocks, "bits": [3, 4, 8]}
    fewer = {name: piece for name, piece in out.pieces.items() if name != BLOCK}
    for sent in (fewer, {**out.pieces, BLOCK: out.pieces["stage1_block01"]}):
        with pytest.raises(BundleError, match=rf"another '{BLOCK}' than .* give the bundle that"):
            Chains(refined, **names, sent=sent)
    Chains(refined, **names, sent=out.pieces)


def test_a_head_that_was_trained_on_is_refused(blocks):
    variables = make_resnet(own_heads=True)[1]
    names = {"base_names": BASE, "block_names": blocks}
    out = Chains(variables, **names, bits=[4])
    sent = sent_of(out).pieces
    for share, refused in ((1e-7, False), (1e-2, True)):
        other = jax.tree.map(np.copy, out.variables({}))
        other["params"][BLOCK]["head"]["kernel"] *= np.float32(1 + share)
        if not refused:
            Chains(other, **names, bits=[4, 8], sent=sent)
            continue
        with pytest.raises(BundleError, match="'head/kernel' changes from what is out"):
            Chains(other, **names, bits=[4, 8], sent=sent)


def test_a_network_folded_by_sizes_answers_as_before(variables):
    other = jax.tree.map(np.copy, variables)
    other["params"][BLOCK]["norm1"]["scale"][:2] = 0, -1
    model = make_resnet()[0]
    images = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)
    wanted = model.apply(other, images)
    folded = fold_norms(other, sizes_of(other["params"]))
    np.testing.assert_allclose(
        model.apply(folded, images), wanted, rtol=1e-3, atol=1e-3 * np.std(wanted)
    )
    np.testing.assert_allclose(kernel(folded) * SIZE, kernel(other), rtol=1e-6)
    # What is measured of it keeps the sign, which its kernels did not take up.
    for signed, sign in ((True, 1), (False, -1)):
        measured = norms_to_measure(other, folded, signed=signed)
        assert measured["params"][BLOCK]["norm1"]["scale"][1] == sign


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


@pytest.mark.tries("wanted a bundle of 1 to 7 bits first, as of --bits=4")
def test_what_is_sent_is_read_back(tmp_path):
    bundle, _, chains = write_chained(tmp_path, bits=(4, 8))
    found = read_sent_bits(bundle)
    assert found == sent_of(chains)
    first = found.up_to(4)
    assert first.bits == (4,)
    last = dict.fromkeys(chains.names, 1)
    for each, steps in ((first, {}), (found, last)):
        jax.tree.map(np.testing.assert_array_equal, variables_of(each), chains.variables(steps))
    whole, _, _ = write_resnet(tmp_path / "whole")
    for wrong, bits in ((whole, 32), (write_chained(tmp_path / "eight", bits=(8,))[0], 8)):
        with pytest.raises(BundleError, match=rf"in {bits} bits; wanted a bundle of 1 to 7 bits f"):
            read_sent_bits(wrong)
