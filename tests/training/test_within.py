"""Training within the levels of a bundle's first bits: what a refinement adds."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, models, training
from accordion_jax.delivery.bundle.first_bits import FirstBits
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.training.within import stay_within, within
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
    return types.SimpleNamespace(
        description=models.describe(model),
        variables=chains.variables(dict.fromkeys(chains.names, len(bits) - 1)),
        first=FirstBits(bits[0], {name: chains.piece(name, 0) for name in chains.names}),
    )


def begun(bundled, **fields):
    """An experiment that begins with the bundle."""
    config = small_config(**FIELDS | fields)
    return training.make_experiment(config, jax.device_count(), read_bundle=lambda _: bundled)


def images_of(experiment):
    rows = experiment.train.rows[:256].reshape(256, *experiment.task.inputs.shape)
    return experiment.task.prepare(jnp.asarray(rows))


def test_a_cell_is_what_rounds_to_the_level_that_is_out(bundled):
    reach = 0.45
    cells = bundled.first.cells(reach)
    for unit in bundled.first.pieces:
        for name, tensor in bundled.first.encoded(unit).tensors.items():
            *path, last = [*([] if unit == "base" else [unit]), *name.split("/")]
            if last in ("mean", "var"):
                continue
            least, most = cells["least"], cells["most"]
            for each in (*path, last):
                least, most = least[each], most[each]
            assert least.shape == most.shape == tensor.shape
            if len(tensor.shape) < 3:
                assert np.isneginf(least).all()
                assert np.isposinf(most).all()
                continue
            scales, center = tensor.scales, tensor.array()
            inner = np.abs(center / scales) < 2.5
            assert 0.2 < inner.mean() < 1
            np.testing.assert_allclose(
                (most - least)[inner], (0 * center + 0.9 * scales)[inner], 1e-5
            )
            np.testing.assert_allclose(((most + least) / 2)[inner], center[inner], atol=1e-6)
            assert (np.isinf(least) | np.isinf(most))[~inner].all()
            assert np.isneginf(least[center / scales < -2.5]).all()
            assert np.isposinf(most[center / scales > 2.5]).all()
            # What 8 bits made of it is in it, or not far out.
            there = bundled.variables["params"]
            for each in (*path, last):
                there = there[each]
            assert (np.maximum(least - there, there - most) <= 0.0501 * scales).all()


def test_cells_have_the_size_of_what_a_run_begins_with(bundled):
    experiment = begun(bundled)
    found, before = experiment.within, experiment.init().params
    folded = bundled.variables["params"]
    trees = before, folded, found.sizes
    now, then, size = (tree["stem"]["conv"]["kernel"] for tree in trees)
    assert abs(size - 1) > 0.05
    np.testing.assert_allclose(now, size * then, rtol=1e-5)
    cells = bundled.first.cells(0.45)
    np.testing.assert_allclose(
        found.least["stem"]["conv"]["kernel"], size * cells["least"]["stem"]["conv"]["kernel"], 1e-5
    )
    for end in (found.least, found.most):
        np.testing.assert_array_equal(end["head"]["kernel"], before["head"]["kernel"])
        assert np.isinf(end["head"]["bias"]).all()
    # A kernel of zeros has no size.
    zeros = {"a": {"kernel": np.zeros((1, 1, 2, 2), np.float32)}}
    ends = {"least": zeros, "most": zeros}
    assert within(ends, zeros, zeros).sizes == {"a": {"kernel": 1.0}}


def test_what_leaves_a_cell_is_brought_back():
    new = {"kernel": np.float32([-3, 0.5, 3, 9])}
    least, most = np.float32([-1, -np.inf, -1, -1]), np.float32([1, 2, 1, np.inf])
    found = stay_within(new, {"kernel": least}, {"kernel": most})
    np.testing.assert_array_equal(found["kernel"], np.float32([-1, 0.5, 1, 9]))


def test_a_run_trains_within_the_cells_and_goes_on_within_the_same(bundled, tmp_path):
    fields = {"optimizer__learning_rate": 0.5}

    def state(folder, steps):
        experiment = begun(bundled, train__steps=steps, **fields)
        return data.unreplicate(training.train(experiment, tmp_path / folder))

    experiment = begun(bundled, train__steps=6, **fields)
    ends, before = experiment.cells, experiment.init().params
    whole = state("whole", 6)

    def check(weights, least, most):
        assert (weights >= least).all()
        assert (weights <= most).all()

    jax.tree.map(check, dict(whole.params), ends["least"], ends["most"])
    np.testing.assert_array_equal(whole.params["head"]["kernel"], before["head"]["kernel"])
    at_an_end = whole.params["stem"]["conv"]["kernel"] == ends["most"]["stem"]["conv"]["kernel"]
    assert 0.02 < np.mean(at_an_end) < 0.5
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
@pytest.mark.tries("give that")
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
    with pytest.raises(ValueError, match="of start_from='somewhere' are 3; give that"):
        assert begun(bundled, train__within_bits=4).within
    assert begun(bundled, train__within_bits=3).within
    with pytest.raises(ValueError, match=r"has other arrays than this network .* values of the b"):
        assert begun(bundled, model__arguments__own_heads=True).within
    assert make().within is None
    dense = {"a": {"kernel": np.ones((2, 3), np.float32)}}
    with pytest.raises(ValueError, match="this network has none; set it to 0"):
        within({"least": dense, "most": dense}, dense, dense)
