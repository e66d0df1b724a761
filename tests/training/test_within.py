"""Training within the levels of few bits: what a refinement adds."""

import jax
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.training.within import cells, stay_within
from tests.training.test_loop import assert_same, make


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, state) of a run of three steps."""
    workdir, experiment = tmp_path_factory.mktemp("trained"), make(train__steps=3)
    training.claim_workdir(workdir, experiment, write=True)
    return workdir, data.unreplicate(training.train(experiment, workdir))


def levels_at(weights, scale, bits):
    """The level that is nearest to each weight."""
    most = 2 ** (bits - 1) - 1
    return np.clip(np.rint(weights / scale), -most, most)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_whatever_is_in_a_cell_has_the_level_of_what_it_is_around(bits):
    rng = np.random.default_rng(bits)
    kernel = rng.standard_t(4, (3, 3, 4, 5)).astype(np.float32)
    kernel[..., 3] = 0
    found = cells({"a": {"conv": kernel, "dense": kernel[0, 0], "bias": kernel[0, 0, 0]}}, bits)
    least, most = (found[end]["a"] for end in ("least", "most"))
    # An inner cell is four fifths of a step wide, which gives a channel's scale away.
    width = (most["conv"] - least["conv"]).reshape(-1, 5)
    scale = np.where(np.isfinite(width), width, 0).max(axis=0) / 0.8
    wanted = levels_at(kernel, scale, bits)
    assert (np.abs(wanted[..., :3]) > 0).mean() > 0.2
    for share in (0.0, 0.3, 1.0):
        low, high = (np.clip(end, -50, 50) for end in (least["conv"], most["conv"]))
        inside = low + share * (high - low)
        np.testing.assert_array_equal(levels_at(inside, scale, bits), wanted)
    # Few weights are brought in, and by little.
    moved = np.abs(np.clip(kernel, least["conv"], most["conv"]) - kernel)
    assert (moved <= 0.11 * scale).all()
    np.testing.assert_array_equal(least["dense"], kernel[0, 0])
    np.testing.assert_array_equal(most["dense"], kernel[0, 0])
    assert np.isneginf(least["bias"]).all()
    assert np.isposinf(most["bias"]).all()


def test_what_leaves_a_cell_is_brought_back():
    new = {"kernel": np.float32([-3, 0.5, 3, 9])}
    least, most = np.float32([-1, -np.inf, -1, -1]), np.float32([1, 2, 1, np.inf])
    found = stay_within(new, {"kernel": least}, {"kernel": most})
    np.testing.assert_array_equal(found["kernel"], np.float32([-1, 0.5, 1, 9]))


def test_a_run_trains_within_the_cells_and_goes_on_within_the_same(trained, tmp_path):
    fields = {"train__start_from": str(trained[0]), "train__within_bits": 3}
    fields["optimizer__learning_rate"] = 0.5

    def state(folder, steps):
        experiment = make(train__steps=steps, **fields)
        return data.unreplicate(training.train(experiment, tmp_path / folder))

    ends = make(train__steps=6, **fields).cells
    whole = state("whole", 6)

    def check(weights, least, most):
        assert (weights >= least).all()
        assert (weights <= most).all()

    jax.tree.map(check, dict(whole.params), ends["least"], ends["most"])
    before = trained[1].params
    np.testing.assert_array_equal(whole.params["head"]["kernel"], before["head"]["kernel"])
    at_an_end = whole.params["stem"]["conv"]["kernel"] == ends["most"]["stem"]["conv"]["kernel"]
    assert 0.02 < np.mean(at_an_end) < 0.5
    assert np.any(whole.params["stem"]["norm"]["bias"] != before["stem"]["norm"]["bias"])
    state("halves", 3)
    assert_same(state("halves", 6), whole)


def test_seeds_that_are_trained_at_once_have_the_same_cells(trained, tmp_path):
    fields = {"train__start_from": str(trained[0]), "train__within_bits": 3, "train__steps": 3}
    one = make(policy__seed=0, **fields)
    together = training.Together([one, one.with_seed(1)])
    several = training.train_together(together, [tmp_path / "0", tmp_path / "1"])
    alone = training.train(one.with_seed(1), tmp_path / "alone")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        dict(data.unreplicate(several[1]).params),
        dict(data.unreplicate(alone).params),
    )


@pytest.mark.tries("keeps the first bits of a trained run")
@pytest.mark.tries("give the run that it is of")
@pytest.mark.tries("no norms of their own; wanted 'coml' or 'resnet'")
def test_without_a_run_or_a_convolution_it_is_refused(trained):
    with pytest.raises(ValueError, match=r"within_bits=4 keeps the first bits .*start_from"):
        make(train__within_bits=4)
    for bits in (-1, 8, True):
        with pytest.raises(ValueError, match=r"config\.train\.within_bits"):
            make(train__within_bits=bits, train__start_from=str(trained[0]))
    sizes = {"model__arguments__stage_sizes": (2, 2), "train__start_from": str(trained[0])}
    with pytest.raises(ValueError, match=r"scheme='blockcoml' cannot send: .*; wanted 'coml' or"):
        make(scheme="blockcoml", train__within_bits=4, **sizes)
    with pytest.raises(ValueError, match="this network has none; set it to 0"):
        cells({"a": {"kernel": np.ones((2, 3), np.float32)}}, 4)
    before = trained[1]
    config = make(train__within_bits=4, train__start_from="somewhere").config
    there = training.make_experiment(
        config, jax.device_count(), read_bundle=lambda _: ({}, before.variables)
    )
    with pytest.raises(ValueError, match=r"start_from='somewhere' is a bundle; give the run"):
        there.init()
