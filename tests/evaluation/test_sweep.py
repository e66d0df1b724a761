"""The sweep: every example once, one pass like each alone, eight devices like one."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from accordion_jax import data
from accordion_jax.data import Dataset, replicate
from accordion_jax.depth import UnitCost, make_ladder
from accordion_jax.evaluation import Counts, Sweep, make_table
from accordion_jax.tasks import Images
from tests.commands import xla_flags
from tests.networks import perturbed_variables, tiny_resnet

CLASSES = 10
AS_THEY_ARE = Images((4, 4, 1), mean=(0.0,), std=(1 / 255,))


class Reader(nn.Module):
    """A stand-in for a network: mask number i reads the class off the image, plus i."""

    def truncations(self, images, *, skip_masks, train=False):
        values = images[:, 0, 0, 0].astype(jnp.int32)
        classes = [(values + number) % CLASSES for number in range(len(skip_masks))]
        return 3 * jax.nn.one_hot(jnp.stack(classes), CLASSES)


def readable(examples, seed=0):
    """Images that hold a class, and labels of which about half agree."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, CLASSES, (examples, 4, 4, 1), np.uint8)
    labels = (images[:, 0, 0, 0] + rng.integers(0, 2, examples)).astype(np.int32) % CLASSES
    return Dataset("readable", AS_THEY_ARE, images, labels, CLASSES)


# Eight devices: batches that do not divide, fewer examples than devices, exactly full rounds.
@pytest.mark.devices(8)
@pytest.mark.parametrize(
    ("size", "batch_size", "examples"),
    [
        (57, 3, 0),
        (57, 500, 0),
        (64, 4, 0),
        (65, 4, 0),
        (5, 2, 0),
        (1, 1, 0),
        (57, 3, 50),
        (57, 3, 99),
    ],
)
def test_every_example_is_counted_once(size, batch_size, examples):
    dataset = readable(size)
    skip_masks = ((True,), (False,), (True, False))
    sweep = Sweep(Reader(), skip_masks, dataset, batch_size=batch_size, examples=examples)
    counts = sweep({})
    used = min(examples or size, size)
    assert counts.examples == used
    values, labels = dataset.inputs[:used, 0, 0, 0].astype(int), dataset.targets[:used]
    wrong = np.stack([(values + number) % CLASSES != labels for number in range(3)])
    np.testing.assert_array_equal(counts.errors, wrong.sum(1))
    assert counts.errors.dtype == np.int64
    # The right class has a logit of 3 and the others of 0, or one of the others has it.
    loss = np.log(np.exp(3) + CLASSES - 1) - 3 * ~wrong
    np.testing.assert_allclose(counts.cross_entropy, loss.mean(1), rtol=1e-6)


@pytest.mark.parametrize("position", [0, 2, 3, 23, 24, 55, 56])
def test_an_example_counts_wherever_it_lies(position):
    dataset = readable(57)
    labels = dataset.inputs[:, 0, 0, 0].astype(np.int32)
    labels[position] = (labels[position] + 1) % CLASSES
    dataset = Dataset("readable", AS_THEY_ARE, dataset.inputs, labels, CLASSES)
    assert Sweep(Reader(), ((True,),), dataset, batch_size=3)({}).errors.tolist() == [1]


# A real network on real images ---------------------------------------------------------------

SIZES = (2, 1, 1)
MODEL = tiny_resnet(SIZES)


@functools.cache
def digits_and_variables():
    """The 360 digits; for half of them, the label is what the whole network says."""
    digits = data.load("digits", "test")
    variables = perturbed_variables(MODEL, digits.inputs.shape[1:])
    images = digits.task.prepare(jnp.asarray(digits.inputs))
    own = np.asarray(jax.jit(MODEL.apply)(variables, images).argmax(-1), np.int32)
    labels = np.where(np.arange(len(digits)) % 2, own, digits.targets)
    return dataclasses.replace(digits, targets=labels), variables


def sweep_digits(scheme, batch_size):
    dataset, variables = digits_and_variables()
    skip_masks = make_ladder(scheme, SIZES).skip_masks
    return Sweep(MODEL, skip_masks, dataset, batch_size=batch_size)(replicate(variables))


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_one_pass_counts_what_each_truncation_alone_does(scheme):
    # 360 images in batches of 13 on eight devices: three whole rounds, and one of 48.
    counts = sweep_digits(scheme, 13)
    dataset, variables = digits_and_variables()
    images = dataset.task.prepare(jnp.asarray(dataset.inputs))
    for row, mask in enumerate(make_ladder(scheme, SIZES).skip_masks):
        logits = MODEL.apply(variables, images, skip_mask=mask)
        assert counts.errors[row] == int((logits.argmax(-1) != dataset.targets).sum())
        losses = jax.nn.logsumexp(logits, axis=-1) - logits[np.arange(360), dataset.targets]
        np.testing.assert_allclose(counts.cross_entropy[row], losses.mean(), rtol=1e-5)
    assert counts.examples == 360
    assert 0 < counts.errors[-1] <= 180, "half of the labels are the network's own"
    assert len(set(counts.errors)) > 1


@pytest.mark.devices(8)
def test_eight_devices_count_what_one_does():
    # Batches of 13 are the same program on eight devices as on one; with 500 it is one of 45.
    batch_sizes = (13, 500)
    finished = subprocess.run(
        [sys.executable, __file__, *map(str, batch_sizes)],
        env=os.environ
        | {
            "XLA_FLAGS": xla_flags(1),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert jax.device_count() == 8
    for line, batch_size in zip(finished.stdout.splitlines(), batch_sizes, strict=True):
        one, eight = json.loads(line), sweep_digits("coml", batch_size)
        assert one["devices"] == 1
        assert one["examples"] == eight.examples == 360
        assert one["errors"] == eight.errors.tolist()
        np.testing.assert_allclose(one["cross_entropy"], eight.cross_entropy, rtol=1e-6)


def test_a_sweep_serves_many_variables():
    dataset, variables = digits_and_variables()
    skip_masks = make_ladder("coml", SIZES).subset([0]).skip_masks
    sweep = Sweep(MODEL, skip_masks, dataset, batch_size=45)
    first = sweep(replicate(variables))
    other = sweep(replicate(jax.tree.map(lambda x: 0.5 * x, variables)))
    again = sweep(replicate(variables))
    assert first.errors.tolist() == again.errors.tolist() != other.errors.tolist()
    np.testing.assert_array_equal(first.cross_entropy, again.cross_entropy)


# Its table -----------------------------------------------------------------------------------


def test_a_table_has_the_counts_and_costs_of_each_configuration():
    ladder = make_ladder("blockcoml", SIZES)
    counts = Counts(200, np.array([180, 90, 30]), np.array([2.5, 1.5, 0.25]))
    base, blocks = UnitCost(5, 40, 100), (UnitCost(10, 80, 200),) * 4
    table = make_table(ladder, counts, base, blocks, {"scheme": "blockcoml"})
    assert [row.configuration for row in table.rows] == [each.name for each in ladder]
    assert [row.errors for row in table.rows] == [180, 90, 30]
    assert [row.top1_error for row in table.rows] == [0.9, 0.45, 0.15]
    assert [row.cross_entropy for row in table.rows] == [2.5, 1.5, 0.25]
    assert [row.size_bytes for row in table.rows] == [40, 280, 360]
    assert [row.macs for row in table.rows] == [100, 700, 900]
    assert {row.examples for row in table.rows} == {200}
    assert table.provenance == {"scheme": "blockcoml"}
    # NumPy's numbers would not be written as JSON.
    assert type(table.rows[0].errors) is int
    assert type(table.rows[0].cross_entropy) is float


def test_counts_of_another_ladder_make_no_table():
    counts = Counts(200, np.array([180, 90]), np.array([2.5, 1.5]))
    with pytest.raises(ValueError, match=r"zip\(\)"):
        make_table(
            make_ladder("coml", SIZES), counts, UnitCost(1, 1, 1), (UnitCost(1, 1, 1),) * 4, {}
        )


if __name__ == "__main__":
    for each in sys.argv[1:]:
        result = sweep_digits("coml", int(each))
        facts = {
            "devices": jax.device_count(),
            "examples": result.examples,
            "errors": result.errors.tolist(),
            "cross_entropy": result.cross_entropy.tolist(),
        }
        print(json.dumps(facts))
