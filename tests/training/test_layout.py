"""Kernels may lie on the devices in another order: to all else the run is the same."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax import data, training
from accordion_jax.training import layout
from accordion_jax.training.checkpoints import Checkpoints
from benchmarks.ours import Ours
from benchmarks.work import Options
from tests.training.test_loop import assert_same
from tests.training.test_together import folders, make_runs

SEEDS = (0, 1)


def restore(folder, shapes):
    with contextlib.closing(Checkpoints(folder / "checkpoints", 1)) as checkpoints:
        return checkpoints.restore(checkpoints.latest, shapes)


class Device:
    """What of a device decides."""

    def __init__(self, platform, capability=None):
        self.platform = platform
        if capability is not None:
            self.compute_capability = capability


@pytest.mark.parametrize(
    ("device", "float32", "bfloat16"),
    [
        (Device("gpu", "9.0"), "OHWI", "OHWI"),  # H100
        (Device("cuda", "10.0"), "OHWI", "OHWI"),
        (Device("gpu", "8.0"), "OIHW", "OHWI"),  # A100
        (Device("gpu", "7.5"), "OIHW", "OIHW"),  # T4
        (Device("gpu", "gfx90a"), "HWIO", "HWIO"),
        (Device("cpu"), "HWIO", "HWIO"),
        (Device("tpu"), "HWIO", "HWIO"),
    ],
)
def test_each_device_gets_the_order_that_it_computes_in(device, float32, bfloat16):
    assert layout.preferred(device, "float32") == float32
    assert layout.preferred(device, "bfloat16") == bfloat16


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize(
    ("order", "shape", "place"),
    [
        ("HWIO", (3, 3, 4, 5), (2, 1, 3, 4)),
        ("OHWI", (5, 3, 3, 4), (4, 2, 1, 3)),
        ("OIHW", (5, 4, 3, 3), (4, 3, 2, 1)),
    ],
)
def test_only_kernels_of_convolutions_are_turned_round_and_back(library, order, shape, place):
    tree = {
        "conv": library.arange(3 * 3 * 4 * 5).reshape(3, 3, 4, 5),
        "dense": library.arange(6).reshape(2, 3),
        "step": library.zeros(()),
    }
    turned = layout.to_devices(tree, order)
    assert [x.shape for x in turned.values()] == [shape, (2, 3), ()]
    assert turned["conv"][place] == tree["conv"][2, 1, 3, 4]
    assert_same(layout.from_devices(turned, order), tree)


@pytest.mark.parametrize("seeds", [SEEDS[:1], SEEDS])
def test_what_is_placed_is_fetched_and_split_as_it_was(seeds):
    runs = training.Together(make_runs(seeds).experiments, layout.OHWI)
    states = [jax.tree.map(np.asarray, run.init()) for run in runs.experiments]
    placed = runs.place(states)
    on_one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), placed)
    assert on_one == runs.shapes
    kernel = placed.params["stage2_block01"]["conv1"]["kernel"]
    height, width, inputs, outputs = states[0].params["stage2_block01"]["conv1"]["kernel"].shape
    assert kernel.shape[-4:] == (outputs, height, width, inputs)
    for state, fetched, split in zip(states, runs.fetch(placed), runs.split(placed), strict=True):
        assert_same(fetched, state)
        assert_same(data.unreplicate(split), state)
        assert all(x.flags.c_contiguous for x in jax.tree.leaves(fetched))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "order"), [(SEEDS, "OHWI"), (SEEDS[:1], "OIHW")])
def test_a_run_is_the_same_in_any_order(tmp_path, seeds, order):
    finals, saved = [], []
    for kernels in (layout.HWIO, order):
        runs = training.Together(make_runs(seeds).experiments, kernels)
        assert runs.kernels == kernels
        where = folders(tmp_path / kernels, seeds)
        finals.append([data.unreplicate(x) for x in training.train_together(runs, where)])
        saved.append([restore(folder, runs.experiment.shapes) for folder in where])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, *finals)
    jax.tree.map(close, *saved)
    first = runs.experiment.init().params["stage1_block01"]["conv1"]["kernel"]
    trained = finals[1][0].params["stage1_block01"]["conv1"]["kernel"]
    assert np.any(trained != np.asarray(first))


@pytest.mark.slow
def test_a_run_begun_in_one_order_goes_on_in_another(tmp_path):
    make = functools.partial(make_runs, SEEDS[:1])
    whole, parts = (folders(tmp_path / name, SEEDS[:1]) for name in ("whole", "parts"))
    (unbroken,) = training.train_together(make(train__steps=6), whole)
    training.train_together(training.Together(make().experiments, layout.OHWI), parts)
    longer = make(train__steps=6).experiments
    (resumed,) = training.train_together(training.Together(longer, layout.HWIO), parts)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, data.unreplicate(resumed), data.unreplicate(unbroken))


def test_a_step_on_chosen_devices_takes_their_order(monkeypatch):
    monkeypatch.setattr(layout, "preferred", lambda *_: layout.OHWI)
    options = Options(depth_n=1, batch_size=8, examples=16)
    run = Ours(options, devices=jax.devices()[:2])
    assert run.together.kernels == layout.OHWI
    assert run.train([options.full]) > 0
