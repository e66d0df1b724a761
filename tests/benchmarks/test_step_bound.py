"""The arithmetic of the bound, by hand."""

import pytest

from accordion_jax.training.experiment import kept_units
from benchmarks.limits import Limits
from benchmarks.step_bound import (
    ARITHMETIC,
    LAUNCHES,
    MEMORY,
    Step,
    bound,
    least_bytes,
    step_flops,
)
from tests.networks import IMAGE_SHAPE, tiny_resnet

LIMITS = Limits({"float32": 100.0, "bfloat16": 400.0}, 10.0, 50.0, 64, 0.001, 0.5)
STEP = Step("3 blocks", 8, 4.0, 200.0, 190.0, 5.0, 2.0, 250, 0.1, 0.0)


def test_each_limit_alone_gives_its_time():
    assert STEP.alone(LIMITS, "float32") == {ARITHMETIC: 2.0, MEMORY: 0.5, LAUNCHES: 0.75}
    assert STEP.alone(LIMITS, "bfloat16")[ARITHMETIC] == 0.5


def test_without_a_count_of_xla_the_least_traffic_counts():
    uncounted = Step("3 blocks", 8, 4.0, 200.0, 0.0, 0.0, 2.0, 250, 0.1, 0.0)
    assert uncounted.alone(LIMITS, "float32")[MEMORY] == 0.2


def test_flops_are_those_of_the_kept_units():
    model = tiny_resnet()
    macs = model.unit_macs(IMAGE_SHAPE)
    kept = kept_units(model, (False, True, False, True))
    wanted = macs["stem"] + macs["stage1_block01"] + macs["stage2_block01"] + macs["head"]
    assert step_flops(model, kept, IMAGE_SHAPE, 5) == 6 * 5 * wanted


def test_least_traffic_counts_passes_over_the_feature_maps():
    model = tiny_resnet()  # channels 4, 8, 8
    kept = kept_units(model, (False, True, False, True))
    maps = 5 * (9 * 8 * 4 * 4 + 16 * 8 * 4 * 4 + 16 * 4 * 2 * 8)  # stem, a block, a smaller block
    assert least_bytes(model, kept, IMAGE_SHAPE, 5, 2, 1000) == 2 * maps + 16 * 1000


@pytest.mark.parametrize(
    ("alone", "begins"),
    [
        ((8.0, 1.0, 1.0), "Bound by arithmetic, which alone takes 80%"),
        ((1.0, 9.9, 1.0), "Bound by memory traffic, which alone takes 99%"),
        ((1.0, 1.0, 7.0), "Bound by launches, which alone takes 70%"),
        ((4.0, 3.5, 0.0), "Bound by no limit alone: arithmetic comes first (40%), and all three"),
        ((2.0, 3.0, 0.0), "Bound by none of the three: even one after another they would take"),
        ((2.0, 12.0, 0.0), "Faster than memory traffic alone would allow (120%"),
    ],
)
def test_the_sentence_names_the_bound(alone, begins):
    found = bound(dict(zip((ARITHMETIC, MEMORY, LAUNCHES), alone, strict=True)), 10.0, "copies")
    assert found.startswith(begins)
    assert ("copies" in found) == ("no limit" in found or "none of the three" in found)
