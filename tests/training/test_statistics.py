"""Statistics of one configuration, measured after training."""

import jax
import numpy as np
import pytest

from accordion_jax import training
from accordion_jax.training.statistics import own_statistics
from tests.training.test_loop import make


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
    stem = np.concatenate([jax.tree.leaves(each["stem"])[0] for each in (one, other)])
    np.testing.assert_array_equal(*np.split(stem, 2))
