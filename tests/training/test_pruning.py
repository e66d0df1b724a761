"""Networks most of whose weights are zero."""

import jax
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.training.pruning import keep_zeros, kept_weights, prune
from tests.training.test_loop import assert_same, make


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, state) of a run of three steps."""
    workdir, experiment = tmp_path_factory.mktemp("trained"), make(train__steps=3)
    training.claim_workdir(workdir, experiment, write=True)
    return workdir, data.unreplicate(training.train(experiment, workdir))


def kernels(params, units):
    return [x for unit in units for x in jax.tree.leaves(params[unit]) if np.ndim(x) > 1]


def zeros(params, units):
    return np.concatenate([np.ravel(x) == 0 for x in kernels(params, units)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_the_smallest_of_all_blocks_together_are_zero(trained, share):
    before, blocks = trained[1].params, make().model.block_names
    after = prune(before, blocks, share)
    assert_same(
        {k: v for k, v in after.items() if k not in blocks},
        {k: v for k, v in before.items() if k not in blocks},
    )
    assert zeros(after, blocks).sum() == round(share * zeros(before, blocks).size)
    for old, new in zip(kernels(before, blocks), kernels(after, blocks), strict=True):
        old, new = np.abs(old), np.asarray(new)
        np.testing.assert_array_equal(new[new != 0], np.asarray(old * np.sign(new))[new != 0])
        # Within a layer no weight goes before a smaller one.
        assert not (new == 0).any() or old[new == 0].max() <= old[new != 0].min()
    for unit in blocks:
        vectors = [[x for x in jax.tree.leaves(p[unit]) if np.ndim(x) < 2] for p in (before, after)]
        assert_same(*vectors)


def test_a_weight_counts_as_its_share_of_the_squares_that_are_left_in_its_layer():
    rng = np.random.default_rng(0)
    layers = [np.float32(rng.normal(size=(3, 4)) * 100), np.float32(rng.normal(size=(5, 2)) / 100)]
    scores = np.array(
        [w**2 / (x[abs(x) >= abs(w)] ** 2).sum() for x in layers for w in x.reshape(-1)]
    )
    for pruned in range(23):
        kept = np.concatenate([mask.reshape(-1) for mask in kept_weights(layers, pruned / 22)])
        assert (~kept).sum() == pruned
        assert scores[~kept].max(initial=0) <= scores[kept].min(initial=np.inf) * (1 + 1e-6)
    # However large a layer is: its largest weight goes last.
    last = [mask.sum() for mask in kept_weights(layers, 20 / 22)]
    assert last == [1, 1]
    scaled = kept_weights([1000 * layers[0], layers[1]], 0.5)
    assert_same(scaled, kept_weights(layers, 0.5))


def test_a_layer_of_zeros_goes_first():
    zero, some = np.zeros((2, 3), np.float32), np.ones((2, 2), np.float32)
    kept = kept_weights([some, zero], 0.6)
    assert kept[0].all()
    assert not kept[1].any()


def test_of_equal_weights_the_first_go_and_nothing_is_changed_in_place():
    kernel = np.ones((2, 5), np.float32)
    found = prune({"a": {"kernel": kernel}, "b": {"kernel": 3 * kernel}}, ("b", "a"), 0.3)
    for unit in "ab":
        zero = np.asarray(found[unit]["kernel"]).reshape(-1) == 0
        np.testing.assert_array_equal(zero, np.arange(10) < 3)
    np.testing.assert_array_equal(kernel, 1)


def test_zeros_of_kernels_stay():
    old = {"kernel": np.float32([[0, 1], [2, 0]]), "bias": np.float32([0, 1])}
    new = {"kernel": np.float32([[5, 6], [0, 8]]), "bias": np.float32([7, 8])}
    found = keep_zeros(old, new)
    np.testing.assert_array_equal(found["kernel"], np.float32([[0, 6], [0, 0]]))
    np.testing.assert_array_equal(found["bias"], new["bias"])


def test_a_run_trains_what_is_not_zero_and_goes_on_with_the_same_zeros(trained, tmp_path):
    sparse = {"train__start_from": str(trained[0]), "train__sparsity": 0.6}
    blocks = make().model.block_names

    def state(folder, steps):
        experiment = make(train__steps=steps, **sparse)
        return data.unreplicate(training.train(experiment, tmp_path / folder))

    begun = make(train__steps=6, **sparse).init().params
    whole = state("whole", 6)
    there = zeros(whole.params, blocks)
    np.testing.assert_array_equal(there, zeros(begun, blocks))
    assert there.mean() == pytest.approx(0.6, abs=1e-2)
    moved = [
        (np.asarray(p) != q)[np.asarray(q) != 0].mean()
        for p, q in zip(kernels(whole.params, blocks), kernels(begun, blocks), strict=True)
        if np.any(q)
    ]
    assert min(moved) > 0.5
    assert not np.array_equal(whole.params["head"]["kernel"], begun["head"]["kernel"])
    state("halves", 3)
    assert_same(state("halves", 6), whole)


@pytest.mark.tries("keeps the largest weights of a trained network")
def test_without_trained_weights_it_is_refused():
    with pytest.raises(ValueError, match=r"sparsity=0.5 keeps the largest weights .*start_from"):
        make(train__sparsity=0.5)
    for share in (-0.1, 1.0, True):
        with pytest.raises(ValueError, match=r"config\.train\.sparsity"):
            make(train__sparsity=share, train__start_from="runs/some")
