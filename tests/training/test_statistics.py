"""Running statistics that are measured anew, of a network and of one configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, tasks, training
from accordion_jax.training.statistics import Renewal, own_statistics, unrounded_statistics
from tests.networks import IMAGE_SHAPE, perturbed_variables, tiny_resnet
from tests.training.test_loop import make

MODEL = tiny_resnet()
VARIABLES = jax.tree.map(np.asarray, perturbed_variables(MODEL))


def dataset_of(**augmentation):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *IMAGE_SHAPE), np.uint8)
    task = tasks.Images(IMAGE_SHAPE, (0.5,) * 2, (0.25,) * 2).with_augmentation(**augmentation)
    return task, data.Dataset("random", task, images, rng.integers(0, 10, 60, np.int32), 10)


def renewal(steps=60, batch_size=20, seed=0, **augmentation):
    return Renewal(*dataset_of(**augmentation), seed=seed, steps=steps, batch_size=batch_size)


def test_what_was_there_before_is_forgotten_and_all_else_stays():
    renew = renewal()
    found = renew(MODEL, VARIABLES)
    jax.tree.map(np.testing.assert_array_equal, found["params"], VARIABLES["params"])
    far = VARIABLES | {"batch_stats": jax.tree.map(lambda x: x + 5, VARIABLES["batch_stats"])}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.02),
        renew(MODEL, far)["batch_stats"],
        found["batch_stats"],
    )


def test_they_are_those_of_the_features():
    task, train = dataset_of(pad=0, flip=False)
    found = Renewal(task, train, steps=60, batch_size=60)(MODEL, VARIABLES)
    images = task.prepare(jnp.asarray(train.inputs))
    kernel = jnp.asarray(VARIABLES["params"]["stem"]["conv"]["kernel"])
    features = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm = found["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(norm["mean"], features.mean((0, 1, 2)), rtol=0.02, atol=0.01)
    np.testing.assert_allclose(norm["var"], features.var((0, 1, 2)), rtol=0.02)


def test_images_are_augmented_as_in_training():
    plain, padded = (renewal(pad=pad, flip=False) for pad in (0, 4))
    norms = [each(MODEL, VARIABLES)["batch_stats"]["stem"]["norm"] for each in (plain, padded)]
    assert all(np.abs(norms[1][name] / norms[0][name] - 1).max() > 0.1 for name in ("mean", "var"))


def test_the_same_seed_gives_the_same():
    first, again, other = (renewal(3, seed=seed)(MODEL, VARIABLES) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, first, other)


@pytest.mark.parametrize("bits", [(), (4,), (4, 32)])
@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_a_run_that_rounded_in_its_steps_gets_those_of_its_weights_as_they_are(bits, scheme):
    sizes = {"model__arguments__stage_sizes": (2, 2)}
    experiment = make(train__bits=bits, scheme=scheme, data__pad=0, **sizes)
    variables = jax.tree.map(np.asarray, experiment.init().variables)
    found = unrounded_statistics(experiment, variables)
    if not bits or scheme == "blockcoml":
        assert found is variables
        return
    jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])
    renew = Renewal(experiment.task, experiment.train, seed=experiment.config.seed)
    wanted = renew(experiment.model, variables)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert found["batch_stats"]["stem"]["norm"]["mean"].any()


@pytest.fixture(scope="module")
def run():
    experiment = make(scheme="blockcoml", model__arguments__stage_sizes=(2, 2))
    state = experiment.init()
    return experiment, jax.tree.map(np.asarray, state.variables)


def test_they_are_the_mean_of_the_batches_of_that_configuration(run):
    """After many steps nothing of what was there is left; a batch's own mean is what comes in."""
    experiment, variables = run
    mask = experiment.ladder[1].skip_mask
    found = own_statistics(experiment, variables, mask, steps=60)
    shifted = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
    other = own_statistics(experiment, variables | {"batch_stats": shifted}, mask, steps=60)
    left = 0.9**60
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(two - one, left, atol=1e-4), found, other
    )


def test_only_what_the_configuration_keeps_has_any(run):
    experiment, variables = run
    for configuration in experiment.ladder:
        found = own_statistics(experiment, variables, configuration.skip_mask, steps=1)
        units = experiment.units(training.single(configuration.skip_mask))
        assert found.keys() == {unit for unit in units if unit in variables["batch_stats"]}


def test_they_are_the_same_each_time_and_differ_between_configurations(run):
    experiment, variables = run
    small, full = (experiment.ladder[i].skip_mask for i in (1, -1))
    one, again = (own_statistics(experiment, variables, small, steps=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    other = own_statistics(experiment, variables, full, steps=3)
    first_of_stage_2 = "stage2_block01"
    assert not np.allclose(
        one[first_of_stage_2]["norm1"]["mean"], other[first_of_stage_2]["norm1"]["mean"]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        *(one["stem"], other["stem"]),
    )
