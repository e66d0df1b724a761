"""Rivals are trained in their form, written, and read again; answers are counted whole."""

import dataclasses
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, models, tasks
from benchmarks.compositions.fitting import Judge, Schedule, Setting, Trainer, rate_at
from benchmarks.compositions.forms import Factored, Pruned, Quantised, describe, flatten, unflatten
from benchmarks.compositions.rivals import Trained, load, result_path, rivals, save
from benchmarks.compositions.train import share_of_budget
from tests.networks import IMAGE_SHAPE, perturbed_variables, tiny_resnet

MODEL = tiny_resnet()
VARIABLES = jax.tree.map(np.asarray, perturbed_variables(MODEL))
SCHEDULE = Schedule(0.05, 8.0, 0.1, 1e-4, 0.5, 2.0)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 96, np.int32)
    images = rng.integers(0, 64, (96, *IMAGE_SHAPE), np.uint8)
    images[np.arange(96), labels % IMAGE_SHAPE[0]] += 150  # so that there is something to learn
    task = tasks.Images(IMAGE_SHAPE, (0.5,) * 2, (0.25,) * 2)
    return data.Dataset("bars", task, images, labels, 10)


@pytest.fixture(scope="module")
def trainer(dataset):
    task = dataset.task.with_augmentation(pad=1, flip=False)
    return Trainer(Setting(dataset, task, MODEL, VARIABLES, batch_size=32, seed=0))


def fit(trainer, form, **changes):
    params, fixed = form.begin(flatten(VARIABLES["params"]))
    start = (MODEL, form.network, params, fixed, flatten(VARIABLES["batch_stats"]))
    schedule = dataclasses.replace(SCHEDULE, **changes)
    return (*trainer.fit(*start, schedule), fixed)


def variables_of(form, params, statistics, fixed):
    network = form.network(params, fixed)
    return {"params": unflatten(network), "batch_stats": unflatten(statistics)}


@pytest.mark.parametrize("form", [Pruned(0.75), Factored("spatial", 0.5), Quantised(3)], ids=str)
def test_a_form_learns_and_stays_what_it_is(form, trainer, dataset):
    judge = Judge(dataset, dataset.task)
    params, fixed = form.begin(flatten(VARIABLES["params"]))
    statistics = flatten(VARIABLES["batch_stats"])
    before = judge(MODEL, variables_of(form, params, statistics, fixed))
    params, statistics, loss, fixed = fit(trainer, form)
    assert np.isfinite(loss)
    assert judge(MODEL, variables_of(form, params, statistics, fixed)) < before
    if isinstance(form, Pruned):
        network = form.network(params, fixed)
        assert sum(int(np.sum(network[path] == 0)) for path in fixed) >= 0.74 * sum(
            mask.size for mask in fixed.values()
        )


def test_one_program_serves_rivals_that_differ_in_numbers_alone(trainer):
    fit(trainer, Pruned(0.75), epochs=1.0)
    before = len(trainer._compiled)
    fit(trainer, Pruned(0.5), epochs=2.0, learning_rate=0.01, distillation=0.0)
    assert len(trainer._compiled) == before


def test_the_same_seed_gives_the_same_network(trainer):
    one, two = (fit(trainer, Quantised(2), epochs=1.0) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_learning_rate_rises_then_falls_to_zero():
    hyper = {"rate": jnp.float32(2), "warmup": jnp.float32(4), "total": jnp.float32(20)}
    rates = [float(rate_at(jnp.int32(step), hyper)) for step in range(21)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[12] == pytest.approx(1.0)
    assert rates[20] == pytest.approx(0.0, abs=1e-6)
    assert all(before > after for before, after in itertools.pairwise(rates[4:]))


@pytest.mark.parametrize("batch", [7, 96, 500])
def test_every_answer_is_counted_once(batch, dataset):
    images = dataset.task.prepare(dataset.inputs)
    outputs = np.asarray(MODEL.apply(VARIABLES, images))
    judge = Judge(dataset, dataset.task, batch)
    assert judge(MODEL, VARIABLES) == np.sum(outputs.argmax(-1) != dataset.targets)
    np.testing.assert_allclose(judge.outputs(MODEL, VARIABLES), outputs, atol=1e-4)
    masks = ((True,) * 4, (False,) * 4)
    both = judge.outputs(MODEL, VARIABLES, masks)
    assert both.shape == (2, 96, 10)
    np.testing.assert_allclose(both[1], outputs, atol=1e-4)


def test_a_rival_is_read_as_it_was_written(tmp_path):
    form = Quantised(2)
    params, fixed = form.begin(flatten(VARIABLES["params"]))
    row = {"name": "half/1", "form": describe(form), "model": models.describe(MODEL)}
    save(tmp_path, Trained(row, params, fixed, flatten(VARIABLES["batch_stats"])))
    path = result_path(tmp_path, "half/1")
    found = load(path)
    assert found.form == form
    assert found.model == MODEL
    jax.tree.map(np.testing.assert_array_equal, found.params, dict(params))
    network = found.variables
    np.testing.assert_array_equal(
        network["batch_stats"]["stem"]["norm"]["mean"],
        VARIABLES["batch_stats"]["stem"]["norm"]["mean"],
    )
    assert json.loads(path.read_text())["form"] == {"kind": "quantised", "bits": 2}
    path.with_suffix(".safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"cannot be read .*; delete .*half"):
        load(path)


def test_names_are_all_different_and_name_a_file():
    names = [result_path(pathlib.Path(), rival.name).name for rival in rivals(0.9)]
    assert len(set(names)) == len(names) == 18


def test_a_budget_shortens_and_never_lengthens():
    assert share_of_budget(100.0, 50.0) == 0.5
    assert share_of_budget(100.0, 500.0) == 1.0
    assert share_of_budget(100.0, 0.0) == 1.0
