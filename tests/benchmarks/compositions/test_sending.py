"""What a device holds of each composition, and the bytes until then."""

import sys

import jax
import numpy as np
import pytest

from accordion_jax.models import ResNet
from benchmarks.compositions import nnc, rows
from benchmarks.compositions.forms import Factored, Pruned, flatten, is_block_kernel
from benchmarks.compositions.sending import BASE, by_depth, dense, factored, sparse
from benchmarks.compositions.wire import through, to_arrays, to_variables
from tests.networks import perturbed_variables, random_images, tiny_resnet

MODEL = tiny_resnet()
VARIABLES = jax.tree.map(np.asarray, perturbed_variables(MODEL))
IMAGES = random_images(8)


def answers(variables):
    return np.asarray(MODEL.apply(variables, IMAGES))


def distance(variables):
    """Of the answers from the network's own, relative to their size."""
    own = answers(VARIABLES)
    return float(np.abs(answers(variables) - own).mean() / np.abs(own).mean())


def test_arrays_by_name_are_the_variables_again():
    again = to_variables(to_arrays(VARIABLES))
    jax.tree.map(np.testing.assert_array_equal, again, VARIABLES)


def test_float32_is_the_network_and_fewer_bits_are_nearly():
    (exact,) = dense(VARIABLES, (32,))
    assert distance(exact.variables) < 1e-5
    (eight,), (three,) = dense(VARIABLES, (8,)), dense(VARIABLES, (3,))
    assert distance(eight.variables) < distance(three.variables)
    assert exact.size_bytes > eight.size_bytes > three.size_bytes
    weights = sum(x.size for x in flatten(VARIABLES["params"]).values())
    assert exact.size_bytes < 4 * weights + 200


def test_steps_end_where_the_last_precision_would_and_cost_little_more():
    coarse, fine = dense(VARIABLES, (4, 8))
    (at_once,) = dense(VARIABLES, (8,))
    jax.tree.map(np.testing.assert_array_equal, fine.variables, at_once.variables)
    assert coarse.size_bytes < at_once.size_bytes < fine.size_bytes < 1.3 * at_once.size_bytes


def test_stem_and_head_may_have_more_bits():
    (sent,) = dense(VARIABLES, (2,), base_bits=8)
    (few,), (many,) = dense(VARIABLES, (2,)), dense(VARIABLES, (8,))
    for unit, tree in sent.variables["params"].items():
        same = many if unit in BASE else few
        jax.tree.map(np.testing.assert_array_equal, tree, same.variables["params"][unit])


def test_depths_and_refinements_add_up():
    blocks = MODEL.block_names
    asked = []

    def renew(variables):
        asked.append(variables)
        return variables

    held, sizes = by_depth(VARIABLES, (4, 8), blocks, renew)
    assert len(asked) == 1
    assert [len(each) for each in sizes] == [1 + len(blocks)] * 2
    assert sizes[0] == sorted(sizes[0])
    assert sizes[0][-1] < sizes[1][0] < sizes[1][-1]
    (eight,) = dense(VARIABLES, (8,))
    jax.tree.map(np.testing.assert_array_equal, held[1], eight.variables)


def test_a_pruned_network_arrives_with_its_zeros():
    params, masks = Pruned(0.5).begin(flatten(VARIABLES["params"]))
    pruned = to_variables({f"params:{path}": x for path, x in params.items()})
    pruned["batch_stats"] = VARIABLES["batch_stats"]
    sent = sparse(pruned, 8)
    held = flatten(sent.variables["params"])
    for path, mask in masks.items():
        assert not held[path][mask == 0].any()
    own = answers(pruned)
    assert np.abs(answers(sent.variables) - own).mean() < 0.05 * np.abs(own).mean()
    assert sent.size_bytes < dense(pruned, (8,))[0].size_bytes


@pytest.mark.parametrize("way", ["spatial", "channel"])
def test_a_network_of_factors_is_their_product(way):
    form = Factored(way, 3.0)
    params, _ = form.begin(flatten(VARIABLES["params"]))
    sent = factored(form, params, flatten(VARIABLES["batch_stats"]), 32)
    assert distance(sent.variables) < 1e-4
    small = Factored(way, 0.25)
    params, _ = small.begin(flatten(VARIABLES["params"]))
    statistics = flatten(VARIABLES["batch_stats"])
    assert factored(small, params, statistics, 8).size_bytes < dense(VARIABLES, (8,))[0].size_bytes


def test_rows_of_a_plain_network_have_names_of_their_own():
    found = list(rows.of_plain(MODEL, VARIABLES))
    names = [each.name for each in found]
    assert len(set(names)) == len(names)
    assert not any("," in name for name in names)  # it parts the patterns of --only
    assert {each.family for each in found} == {"plain", "bit-planes"}
    for each in found:
        made = each.make()
        assert len(made) == len(each.what)
        assert [sent.size_bytes for sent in made] == sorted(sent.size_bytes for sent in made)


def test_rows_of_two_plain_networks_can_be_told_apart():
    def names(*which):
        made = [
            rows.of_plain(MODEL, VARIABLES, *which),
            rows.without_training(MODEL, VARIABLES, lambda _, held: held, *which),
            nnc.of_plain(MODEL, VARIABLES, "", *which),
        ]
        return [each.name for of_one in made for each in of_one]

    first, other = names(), names("plain again")
    assert all(name.startswith("plain ") for name in first)
    assert other == [name.replace("plain ", "plain again ", 1) for name in first]
    assert not {*first} & {*other}


def test_rows_of_any_depth_say_what_the_network_was_made_with():
    def first(model, **made_with):
        return next(rows.of_elastic(model, VARIABLES, [], lambda _, held: held, **made_with))

    assert first(MODEL).name == "Accordion 32 bits"
    assert first(MODEL, sparsity=0.7, rounded=True).family == "Accordion pruned-70 rounded"
    own = ResNet(MODEL.num_classes, MODEL.stage_sizes, MODEL.channels, own_heads=True)
    assert first(own, sparsity=0.7).name == "Accordion pruned-70 own heads 32 bits"


def test_without_training_statistics_are_all_that_changes():
    renewed = []

    def recalibrate(model, variables):
        renewed.append(variables)
        return variables

    found = {each.name: each for each in rows.without_training(MODEL, VARIABLES, recalibrate)}
    assert not renewed  # nothing is made before it is asked for
    (sent,) = found["plain 4 bits recalibrated"].make()
    (plain,) = dense(VARIABLES, (4,))
    assert sent.size_bytes <= 1.1 * plain.size_bytes
    for each in found.values():
        (sent,) = each.make()
        assert 0 < distance(sent.variables) < 3
    jax.tree.map(np.testing.assert_array_equal, renewed[0]["batch_stats"], VARIABLES["batch_stats"])


def test_without_a_codec_the_entropy_stands_for_it():
    found = list(nnc.of_plain(MODEL, VARIABLES, ""))
    assert all("entropy bound" in each.name for each in found)
    assert "no codec" in found[0].note
    made = [sent for each in found for sent in each.make()]
    sizes = [sent.size_bytes for sent in made]
    assert sizes == sorted(sizes, reverse=True)
    assert distance(made[0].variables) < 0.05


def test_a_codec_that_does_not_run_is_told():
    found = list(nnc.of_plain(MODEL, VARIABLES, sys.executable))
    with pytest.raises(RuntimeError, match=r"could not code with nncodec, and said: .*nncodec"):
        found[0].make()


def test_steps_of_quantisation_double_every_four():
    steps = [nnc.step_of(qp) for qp in range(-40, 0)]
    assert all(b == pytest.approx(2 * a) for a, b in zip(steps, steps[4:], strict=False))
    assert nnc.step_of(-32) == 2**-8


def test_entropy_is_that_of_the_histogram():
    assert nnc.entropy_bits(np.array([0.0, 1, 0, 1])) == pytest.approx(4)
    assert nnc.entropy_bits(np.zeros(5)) == 0


def test_a_segment_gives_its_bytes_and_arrays_step_by_step():
    arrays = {
        "a": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "b": np.zeros(3, np.float32),
    }
    found = through(arrays, dict.fromkeys(arrays, (4, 8)))
    assert len(found) == 2
    for _, held in found:
        np.testing.assert_array_equal(held["b"], arrays["b"])
    errors = [np.abs(held["a"] - arrays["a"]).max() for _, held in found]
    assert errors[1] < errors[0]
    assert not any(is_block_kernel(name) for name in ("stem/conv/kernel", "head/kernel"))
    assert found[0][0] > 0
