import jax
import numpy as np
import pytest

from accordion_jax import tasks
from accordion_jax.delivery.bundle.folding import fold_norms, norms_to_measure, unit_norms
from tests.delivery.resnets import INPUT, make_images, make_resnet


@pytest.fixture(scope="module")
def resnet():
    """(model, variables) of a ResNet whose norms scale by what is negative too."""
    model, variables, _, _ = make_resnet()
    scale = variables["params"]["stage2_block01"]["norm1"]["scale"]
    scale[::2] *= -1
    scale[3] = 0
    return model, variables


def outputs(model, variables, skip_mask):
    inputs = tasks.from_description(INPUT).prepare(make_images(8))
    return np.asarray(jax.jit(lambda v: model.apply(v, inputs, skip_mask=skip_mask))(variables))


@pytest.mark.parametrize("skip_mask", [(False,) * 3, (True, False, True), (True,) * 3])
def test_a_folded_network_gives_the_same_outputs_at_every_depth(resnet, skip_mask):
    model, variables = resnet
    before = outputs(model, variables, skip_mask)
    after = outputs(model, fold_norms(variables), skip_mask)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_what_is_left_of_a_norm_is_its_bias(resnet):
    _, variables = resnet
    kept = jax.tree.map(np.copy, variables)
    folded = fold_norms(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, kept)
    assert jax.tree.map(np.shape, folded) == jax.tree.map(np.shape, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(folded)} == {np.dtype(np.float32)}
    norms = 0
    for unit, tree in folded["batch_stats"].items():
        for norm, statistics in tree.items():
            norms += 1
            scale = folded["params"][unit][norm]["scale"]
            assert np.all(statistics["mean"] == 0)
            assert np.all(statistics["var"] == 1)
            assert np.all(scale == 1)
    assert norms == 7
    for name, array in variables["params"]["head"].items():
        np.testing.assert_array_equal(folded["params"]["head"][name], array)


def test_folding_twice_changes_nothing_more(resnet):
    once = fold_norms(resnet[1])
    twice = fold_norms(once)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), once, twice)


def test_the_bias_of_a_convolution_goes_into_that_of_the_norm():
    rng = np.random.default_rng(0)
    kernel, bias, scale, shift, mean = rng.normal(size=(5, 4)).astype(np.float32)
    var = np.float32([0.1, 1, 2, 3])
    variables = {
        "params": {
            "unit": {
                "conv": {"kernel": kernel[None], "bias": bias},
                "norm": {"scale": scale, "bias": shift},
            }
        },
        "batch_stats": {"unit": {"norm": {"mean": mean, "var": var}}},
    }
    unit = fold_norms(variables)["params"]["unit"]
    assert not unit["conv"]["bias"].any()
    x = 0.7
    wanted = (x * kernel + bias - mean) * scale / np.sqrt(var + 1e-5) + shift
    after = x * unit["conv"]["kernel"][0] / np.sqrt(1 + 1e-5) + unit["norm"]["bias"]
    np.testing.assert_allclose(after, wanted, rtol=1e-5)


def test_what_is_no_convolution_with_its_norm_is_left():
    ones = np.ones(2, np.float32)
    norm, statistics = {"scale": 2 * ones, "bias": ones}, {"mean": ones, "var": ones}
    variables = {
        "params": {
            "alone": {"norm": norm},
            "other": {"conv": {"kernel": ones, "mask": ones}, "norm": norm},
            "layer": {"conv": {"kernel": ones}, "norm": {"scale": ones}},
            "deep": {"er": {"conv": {"kernel": ones}, "norm": norm}},
        },
        "batch_stats": {
            "alone": {"norm": statistics},
            "other": {"norm": statistics},
            "deep": {"er": {"norm": statistics}},
        },
    }
    folded = fold_norms(variables)
    for unit in ("alone", "other", "layer"):
        for collection in folded:
            assert folded[collection].get(unit) == variables[collection].get(unit)
    assert folded["batch_stats"]["deep"]["er"]["norm"]["mean"].tolist() == [0, 0]
    assert fold_norms({"params": {"head": {"kernel": ones}}})["params"]["head"]["kernel"] is ones


def test_norms_of_rounded_kernels_do_what_they_were_trained_to(resnet):
    model, variables = resnet
    folded = fold_norms(variables)
    rounded = jax.tree.map(lambda x: np.round(x, 1) if x.ndim > 1 else x, folded)
    measuring = norms_to_measure(variables, rounded)
    for unit, norm in (("stem", "norm"), ("stage2_block01", "norm1"), ("stage3_block01", "norm2")):
        was, found = (each["params"][unit][norm] for each in (variables, measuring))
        np.testing.assert_array_equal(found["scale"], np.abs(was["scale"]))
        np.testing.assert_array_equal(found["bias"], was["bias"])
        kernels = [
            each["params"][unit][norm.replace("norm", "conv")] for each in (rounded, measuring)
        ]
        np.testing.assert_array_equal(*(each["kernel"] for each in kernels))
    # With statistics of any kind, the folded network is the measured one.
    rng = np.random.default_rng(0)
    measuring["batch_stats"] = jax.tree.map(
        lambda x: rng.uniform(0.5, 2, x.shape).astype(np.float32), measuring["batch_stats"]
    )
    found = unit_norms(measuring, folded)
    for each in jax.tree.leaves(found["batch_stats"]):
        assert np.isin(each, (0, 1)).all()
    same_kernels = jax.tree.map(lambda a, b: a if a.ndim > 1 else b, measuring, found)
    mask = (False,) * 3
    wanted = outputs(model, measuring, mask)
    np.testing.assert_allclose(
        outputs(model, same_kernels, mask), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max()
    )
    # All but the norms is that of the folded network.
    np.testing.assert_array_equal(
        found["params"]["stem"]["conv"]["kernel"], folded["params"]["stem"]["conv"]["kernel"]
    )
    np.testing.assert_array_equal(found["params"]["head"]["bias"], folded["params"]["head"]["bias"])


def test_exact_statistics_of_the_network_itself_are_the_folded_network():
    variables = make_resnet()[1]
    folded = fold_norms(variables)
    measuring = norms_to_measure(variables, folded)
    # A folded kernel gives features of mean m g and variance v g^2, with g the factor folded in.
    for unit, norms in variables["batch_stats"].items():
        for norm, held in norms.items():
            scale = variables["params"][unit][norm]["scale"].astype(np.float64)
            factor = scale / np.sqrt(held["var"] + 1e-5) * np.sqrt(1 + 1e-5)
            measuring["batch_stats"][unit] = measuring["batch_stats"][unit] | {
                norm: {"mean": held["mean"] * factor, "var": held["var"] * factor**2}
            }
    found = unit_norms(measuring, folded)
    for unit, norms in variables["batch_stats"].items():
        for norm in norms:
            ours, wanted = (each["params"][unit][norm] for each in (found, folded))
            np.testing.assert_allclose(ours["scale"], wanted["scale"], rtol=1e-2)
            np.testing.assert_allclose(ours["bias"], wanted["bias"], rtol=1e-2, atol=1e-2)
