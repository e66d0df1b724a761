"""Networks whose norms were folded, as training knows them again; runs that begin with one."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, models, training
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.training.unfolding import unfold_norms
from tests.training.test_loop import assert_same, make


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An experiment, and its variables after some steps."""
    experiment = make(train__steps=40, train__batch_size=128)
    state = training.train(experiment, tmp_path_factory.mktemp("run"))
    return experiment, jax.tree.map(np.asarray, data.unreplicate(state).variables)


def unfolded(experiment, variables, seed=0, model=None):
    key, fresh = jax.random.key(seed), experiment.init().params
    model = model or experiment.model
    return unfold_norms(model, variables, experiment.task, experiment.train, key, fresh)


def images_of(experiment):
    rows = experiment.train.rows[:512].reshape(512, *experiment.task.inputs.shape)
    return experiment.task.prepare(jnp.asarray(rows))


def test_the_function_stays_and_the_norms_know_their_inputs(trained):
    experiment, variables = trained
    model, images = experiment.model, images_of(experiment)
    found = unfolded(experiment, fold_norms(variables))
    np.testing.assert_allclose(
        model.apply(found, images), model.apply(variables, images), rtol=1e-3, atol=1e-4
    )
    # In training, norms use the statistics of the batch: only now do these make the same function.
    outputs = {}
    for name, each in {"folded": fold_norms(variables), "unfolded": found}.items():
        outputs[name], _ = model.apply(each, images, train=True, mutable=["batch_stats"])
    wanted = model.apply(variables, images)
    off = {name: float(jnp.abs(each - wanted).mean()) for name, each in outputs.items()}
    assert off["unfolded"] < 0.3 * off["folded"], off
    means = found["batch_stats"][model.block_names[0]]["norm1"]
    assert np.abs(means["mean"]).max() > 0
    assert (means["var"] != 1).all()


def test_kernels_have_the_size_of_fresh_ones(trained):
    experiment, variables = trained
    folded, fresh = fold_norms(variables), experiment.init().params
    found = unfolded(experiment, folded)["params"]
    sizes = {
        (unit, name): [
            float(np.linalg.norm(tree[unit][name]["kernel"]))
            for tree in (fresh, found, folded["params"])
        ]
        for unit, tree in found.items()
        for name in tree
        if "conv" in name
    }
    assert len(sizes) == 2 * len(experiment.model.block_names) + 1
    for wanted, size, _ in sizes.values():
        assert size == pytest.approx(wanted, rel=1e-5)
    assert max(max(a, b) / min(a, b) for a, _, b in sizes.values()) > 1.5
    # Nothing but the size is another, and the head has no norm.
    for unit, name in sizes:
        turned = np.vdot(found[unit][name]["kernel"], folded["params"][unit][name]["kernel"])
        assert turned == pytest.approx(sizes[unit, name][1] * sizes[unit, name][2], rel=1e-5)
    assert_same(found["head"], folded["params"]["head"])


def test_it_is_a_function_of_the_key(trained):
    experiment, variables = trained
    folded = fold_norms(variables)
    assert_same(unfolded(experiment, folded), unfolded(experiment, folded))
    first, other = (unfolded(experiment, folded, seed)["batch_stats"] for seed in (0, 1))
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(lambda a, b: a != b, first, other))))


def test_norms_with_statistics_of_their_own_stay(trained):
    experiment, variables = trained
    assert_same(unfolded(experiment, variables), variables)
    # One that is folded among others.
    unit = experiment.model.block_names[0]
    folded = fold_norms(variables)
    mixed = {
        collection: tree | {unit: folded[collection][unit]}
        for collection, tree in variables.items()
    }
    found = unfolded(experiment, mixed)
    for collection, tree in variables.items():
        for name in tree:
            if name != unit:
                assert_same(found[collection][name], tree[name])
    assert (found["batch_stats"][unit]["norm1"]["var"] != 1).all()


def test_scanned_stages_make_no_difference(trained):
    experiment, variables = trained
    folded = fold_norms(variables)
    scanned = models.build(models.describe(experiment.model), scan_stages=True)
    found = unfolded(experiment, folded, model=scanned)
    assert_same(found, unfolded(experiment, folded))


def test_a_run_begins_with_what_it_is_given(trained, tmp_path):
    experiment, variables = trained
    asked = []

    def read_bundle(folder):
        asked.append(folder)
        return types.SimpleNamespace(
            description=models.describe(experiment.model), variables=fold_norms(variables)
        )

    config = experiment.config.copy_and_resolve_references()
    config.train.steps, config.train.start_from = 3, "of-somebody"
    begun = training.make_experiment(config, jax.device_count(), read_bundle=read_bundle)
    images = images_of(experiment)
    np.testing.assert_allclose(
        *(experiment.model.apply(each, images) for each in (begun.init().variables, variables)),
        rtol=1e-3,
        atol=1e-4,
    )
    training.claim_workdir(tmp_path, begun, write=True)
    training.train(begun, tmp_path)
    assert asked == ["of-somebody"] * 2
    config.train.steps = 6
    longer = training.make_experiment(config, jax.device_count(), read_bundle=read_bundle)
    training.train(longer, tmp_path)
    assert len(asked) == 2, "a run that goes on asks for its beginning again"
    other = make(model__arguments__channels=(4, 16), train__start_from="of-somebody")
    with pytest.raises(ValueError, match="start_from='of-somebody' is of another network"):
        training.make_experiment(other.config, read_bundle=read_bundle).init()
