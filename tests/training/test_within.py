"""Training within the levels of a bundle's first bits: what a refinement adds."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, models, training
from accordion_jax.delivery.bundle.encodings.integers import Integer
from accordion_jax.delivery.bundle.encodings.nesting import nested
from accordion_jax.delivery.bundle.encodings.scales import quantise
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.sent_bits import SentBits
from accordion_jax.training.within import REACH, ends, rounded_within, stay_within, within
from tests.training.test_loop import assert_same, make, small_config

FIELDS = {"train__start_from": "somewhere", "train__within_bits": 3}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """What a reader returns of the bundle, in 3 and then 8 bits, of a run of forty steps."""
    experiment = make(train__steps=40, train__batch_size=128)
    state = training.train(experiment, tmp_path_factory.mktemp("trained"))
    variables = jax.tree.map(np.asarray, data.unreplicate(state).variables)
    return bundle_of(experiment.model, variables, [3, 8])


def bundle_of(model, variables, bits):
    names = {"base_names": model.base_names, "block_names": model.block_names}
    chains = Chains(fold_norms(variables), **names, bits=bits)
    steps = range(len(bits))
    return types.SimpleNamespace(
        description=models.describe(model),
        variables=chains.variables(dict.fromkeys(chains.names, len(bits) - 1)),
        sent=SentBits(
            tuple(bits),
            {name: tuple(chains.piece(name, step) for step in steps) for name in chains.names},
        ),
    )


def begun(bundled, **fields):
    """An experiment that begins with the bundle."""
    config = small_config(**FIELDS | fields)
    return training.make_experiment(config, jax.device_count(), read_bundle=lambda _: bundled)


def images_of(experiment):
    rows = experiment.train.rows[:256].reshape(256, *experiment.task.inputs.shape)
    return experiment.task.prepare(jnp.asarray(rows))


def at(tree, unit, name):
    for each in (*([] if unit == "base" else [unit]), *name.split("/")):
        tree = tree[each]
    return tree


@pytest.mark.parametrize("bits", [3, 8])
def test_a_cell_is_what_rounds_to_the_level_that_is_out(bundled, bits):
    sent = bundled.sent.up_to(bits)
    assert sent.bits == ((3,) if bits == 3 else (3, 8))
    levels = sent.levels()
    for unit in sent.pieces:
        for name, tensor in sent.encoded(unit).tensors.items():
            if name.endswith(("mean", "var")):
                continue
            center, spacing = (at(levels[each], unit, name) for each in ("center", "spacing"))
            np.testing.assert_array_equal(center, tensor.array())
            assert spacing.shape == tensor.shape
            if len(tensor.shape) < 3:
                assert (np.isposinf(spacing) if len(tensor.shape) < 2 else spacing == 0).all()
                continue
            np.testing.assert_array_equal(spacing, 0 * center + tensor.scales)
            least, most = (np.asarray(end) for end in ends(center, spacing, bits))
            inner = np.abs(center / spacing) < 2 ** (bits - 1) - 1.5
            assert 0.2 < inner.mean() < 1
            np.testing.assert_allclose((most - least)[inner], (2 * REACH * spacing)[inner], 1e-3)
            np.testing.assert_allclose(((most + least) / 2)[inner], center[inner], atol=1e-6)
            assert (np.isinf(least) ^ np.isinf(most))[~inner].all()
            assert np.isneginf(least[~inner & (center < 0)]).all()
            assert np.isposinf(most[~inner & (center > 0)]).all()
            # What 8 bits made of it is in it, or not far out.
            there = at(bundled.variables["params"], unit, name)
            assert (np.maximum(least - there, there - most) <= 0.0501 * spacing).all()


def test_what_is_out_in_more_bits_than_the_others_stays(bundled):
    sent = bundled.sent.up_to(3)
    finer = SentBits((2,), sent.pieces)
    spacing = finer.levels()["spacing"]
    assert not spacing["stem"]["conv"]["kernel"].any()
    assert np.isposinf(spacing["stem"]["norm"]["bias"]).all()


def test_cells_have_the_size_of_what_a_run_begins_with(bundled):
    experiment = begun(bundled)
    found, before = experiment.within, experiment.init().params
    folded = bundled.variables["params"]
    trees = before, folded, found.sizes
    now, then, size = (tree["stem"]["conv"]["kernel"] for tree in trees)
    assert abs(size - 1) > 0.05
    np.testing.assert_allclose(now, size * then, rtol=1e-5)
    levels = bundled.sent.up_to(3).levels()
    for each, tree in found.cells.items():
        wanted = size * levels[each]["stem"]["conv"]["kernel"]
        np.testing.assert_allclose(tree["stem"]["conv"]["kernel"], wanted, 1e-5)
    cell = {each: tree["head"] for each, tree in found.cells.items()}
    np.testing.assert_array_equal(cell["center"]["kernel"], before["head"]["kernel"])
    assert not cell["spacing"]["kernel"].any()
    assert np.isinf(cell["spacing"]["bias"]).all()
    # A kernel of zeros has no size.
    zeros = {"a": {"kernel": np.zeros((1, 1, 2, 2), np.float32)}}
    ones = jax.tree.map(np.ones_like, zeros)
    levels = {"center": zeros, "spacing": ones}
    assert within(levels, 3, zeros, zeros).sizes == {"a": {"kernel": 1.0}}


def test_what_leaves_a_cell_is_brought_back():
    new = np.float32([-3, 0.5, 3, 9, 9, 0.7])
    center = np.float32([0, 0, 2, 6, 0, 0.25])
    spacing = np.float32([2, np.inf, 2, 2, 2, 0])
    found = stay_within(*({"kernel": each} for each in (new, center, spacing)), bits=3)
    np.testing.assert_allclose(found["kernel"], [-0.9, 0.5, 2.9, 9, 0.9, 0.25], rtol=1e-6)
    low = stay_within(*(np.float32([each]) for each in (-9, -6, 2)), bits=3)
    np.testing.assert_array_equal(low, [-9])


@pytest.mark.parametrize(("held", "bits"), [(1, 2), (3, 4), (4, 5), (4, 6), (2, 8)])
def test_it_rounds_to_what_a_bundle_can_refine_its_levels_to(held, bits):
    rng = np.random.default_rng(bits)
    kernel = rng.normal(size=(3, 3, 8, 16)) * np.exp(rng.normal(size=16))
    kernel = kernel.astype(np.float32)
    coarse = Integer(held).encode(kernel, None)
    center, spacing = coarse.array(), 0 * kernel + coarse.scales
    moved = kernel + 0.3 * spacing * rng.uniform(-1, 1, kernel.shape).astype(np.float32)
    moved = np.asarray(jnp.clip(moved, *ends(center, spacing, held)))
    rounded = jax.jit(functools.partial(rounded_within, bits=bits, held=held))
    ours = np.asarray(rounded(moved, center, spacing))
    # Every level that it goes to rounds to that which is out.
    again = quantise(ours.reshape(coarse.indices.shape), coarse.scales, coarse.levels)
    np.testing.assert_array_equal(again, coarse.indices)
    theirs = nested(moved, coarse, bits).array()
    off, least = (((each - moved) ** 2).sum((0, 1, 2)) for each in (ours, theirs))
    # A bundle tries more scales.
    assert 0.999 * least.sum() <= off.sum() <= (1.25 if held == 1 else 1.1) * least.sum()
    assert all(len(np.unique(ours[..., c])) <= 2**bits for c in range(16))
    # What is rounded already stays, and so the bundle of it is exact.
    np.testing.assert_allclose(nested(ours, coarse, bits).array(), ours, rtol=1e-5, atol=1e-7)


def test_what_has_no_levels_is_not_rounded_and_the_gradient_passes():
    kernel = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rounded = jax.jit(functools.partial(rounded_within, bits=5, held=4))
    for spacing in (0, np.inf):
        cell = np.zeros_like(kernel), np.full_like(kernel, spacing)
        np.testing.assert_array_equal(rounded(kernel, *cell), kernel)
    cell = np.round(kernel), np.ones_like(kernel)

    def loss(weights):
        return jnp.sum(jnp.tanh(weights) ** 2)

    found = jax.jit(jax.grad(lambda weights: loss(rounded(weights, *cell))))(kernel)
    wanted = jax.grad(loss)(rounded(kernel, *cell))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_is_made_zero_stays_within_the_cells(bundled):
    whole, sparse = (begun(bundled, train__sparsity=share) for share in (0.0, 0.9))
    before, after = (jax.device_get(each.init().params) for each in (whole, sparse))
    cells = whole.within.cells
    jax.tree.map(np.testing.assert_array_equal, cells, sparse.within.cells)
    kernels = [tree["stage1_block01"]["conv1"]["kernel"] for tree in (before, after)]
    zero = cells["center"]["stage1_block01"]["conv1"]["kernel"] == 0
    # Of what is zero in the bits that are out more is zero now, and nothing else is.
    assert np.mean(kernels[0][zero] == 0) < 0.5 < np.mean(kernels[1][zero] == 0)
    assert (kernels[1][~zero] != 0).all()
    found = stay_within(after, **cells, bits=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, after)
    np.testing.assert_array_equal(after["head"]["kernel"], before["head"]["kernel"])


def test_a_run_trains_within_the_cells_and_goes_on_within_the_same(bundled, tmp_path):
    fields = {"optimizer__learning_rate": 0.5}

    def state(folder, steps):
        experiment = begun(bundled, train__steps=steps, **fields)
        return data.unreplicate(training.train(experiment, tmp_path / folder))

    experiment = begun(bundled, train__steps=6, **fields)
    cells, before = experiment.within.cells, experiment.init().params
    whole = state("whole", 6)
    found = stay_within(dict(whole.params), **cells, bits=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, whole.params)
    np.testing.assert_array_equal(whole.params["head"]["kernel"], before["head"]["kernel"])
    stem = (tree["stem"]["conv"]["kernel"] for tree in (whole.params, *cells.values()))
    weights, *cell = (np.asarray(each) for each in stem)
    assert 0.02 < np.mean(np.isclose(weights, ends(*cell, 3)[1], rtol=1e-6)) < 0.5
    assert np.any(whole.params["stem"]["norm"]["bias"] != before["stem"]["norm"]["bias"])
    state("halves", 3)
    assert_same(state("halves", 6), whole)


def test_seeds_that_are_trained_at_once_have_the_same_cells(bundled, tmp_path):
    one = begun(bundled, policy__seed=0, train__steps=3)
    together = training.Together([one, one.with_seed(1)])
    several = training.train_together(together, [tmp_path / "0", tmp_path / "1"])
    alone = training.train(one.with_seed(1), tmp_path / "alone")
    assert_same(one.init().params, one.with_seed(1).init().params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        dict(data.unreplicate(several[1]).params),
        dict(data.unreplicate(alone).params),
    )


@pytest.mark.tries("keeps the first bits of a bundle")
@pytest.mark.tries("cut one of it first")
@pytest.mark.tries("give one of these")
@pytest.mark.tries("what more bits add to so many; wanted more, or within_bits=0")
@pytest.mark.tries("the values of the bundle")
@pytest.mark.tries("no norms of their own; wanted 'coml' or 'resnet'")
def test_what_is_no_such_run_is_refused(bundled):
    with pytest.raises(ValueError, match=r"within_bits=4 keeps the first bits .*start_from"):
        make(train__within_bits=4)
    for bits in (-1, 8, True):
        with pytest.raises(ValueError, match=r"config\.train\.within_bits"):
            begun(bundled, train__within_bits=bits)
    sizes = {"model__arguments__stage_sizes": (2, 2)}
    with pytest.raises(ValueError, match=r"scheme='blockcoml' cannot send: .*; wanted 'coml' or"):
        begun(bundled, scheme="blockcoml", **sizes)
    begun(bundled, scheme="coml", **sizes)
    with pytest.raises(ValueError, match=r"start_from='somewhere' is none; cut .*--bits=3$"):
        assert begun(None).within
    with pytest.raises(ValueError, match="start_from='somewhere' sends 3 then 8 bits; give one"):
        assert begun(bundled, train__within_bits=4).within
    assert begun(bundled, train__within_bits=3).within
    with pytest.raises(ValueError, match=r"has other arrays than this network .* values of the b"):
        assert begun(bundled, model__arguments__own_heads=True).within
    assert make().within is None
    with pytest.raises(ValueError, match=r"bits has 3, and .*within_bits=3 .* wanted more, or wit"):
        begun(bundled, train__bits=(4, 3))
    dense = {"a": {"kernel": np.ones((2, 3), np.float32)}}
    levels = {"center": dense, "spacing": jax.tree.map(np.zeros_like, dense)}
    with pytest.raises(ValueError, match="this network has none; set it to 0"):
        within(levels, 3, dense, dense)
