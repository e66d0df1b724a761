"""The estimate's arithmetic, against figures worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from benchmarks.collectives import collectives
from benchmarks.device_steps import compile_step
from benchmarks.ours import make_experiment
from benchmarks.scaling import works_of
from benchmarks.scaling_estimate import Slice, Work, estimate, step_times
from benchmarks.work import IMAGE_SHAPE, Options
from tests.networks import equations

# Round figures: no two terms alike.
CHIPS = Slice((2, 4), 1e12, 1e9, 4e9, ici_share=0.5, hop_s=1e-3, utilisation=0.25)
WORK = Work(macs=10**9, features=10**6, parameters=500, averaged_bytes=16_000_000,
            averaged_arrays=300)  # fmt: skip


def test_each_term_by_hand():
    times = step_times(WORK, 32, CHIPS)
    assert times.arithmetic_s == pytest.approx(3 * 2 * 1e9 * 4 / 0.25e12)  # 4 images a chip
    assert times.memory_s == pytest.approx((15 * 4 * 4e6 + 8 * 4 * 500) / 1e9)
    # 7/8 of the bytes twice at 2 GB/s; 300 arrays are two operations, of 2 (1 + 3) hops.
    assert times.communication_s == pytest.approx(14e6 * 2 / 2e9 + 2 * 8e-3)
    assert times.step_s == pytest.approx(0.240016 + 0.030)


def test_one_chip_sends_nothing_and_is_fully_efficient():
    alone = estimate([(1.0, WORK)], 32, CHIPS.one)
    assert alone.times.communication_s == 0
    assert alone.efficiency == pytest.approx(1)


def test_communication_does_not_depend_on_the_batch_so_a_large_one_is_more_efficient():
    small, large = (estimate([(1.0, WORK)], batch, CHIPS) for batch in (32, 320))
    assert small.times.communication_s == large.times.communication_s
    assert small.efficiency < large.efficiency < 1


def test_a_policy_averages_steps_not_works():
    light = dataclasses.replace(WORK, macs=0, features=0, averaged_bytes=0, averaged_arrays=0)
    both = estimate([(0.25, WORK), (0.75, light)], 32, CHIPS)
    wanted = 0.25 * step_times(WORK, 32, CHIPS).step_s + 0.75 * step_times(light, 32, CHIPS).step_s
    assert both.step_s == pytest.approx(wanted)
    assert both.times.arithmetic_s == pytest.approx(0.25 * step_times(WORK, 32, CHIPS).arithmetic_s)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size=124 is not divisible by 8 chips"):
        step_times(WORK, 124, CHIPS)


@pytest.fixture(scope="module")
def experiment():
    return make_experiment(Options(depth_n=1, batch_size=8, examples=16))


@pytest.mark.parametrize("depth", [0, 2, 3])
def test_features_are_those_of_the_program_s_convolutions(experiment, depth):
    mask = experiment.ladder[depth].skip_mask

    def forward(variables, images):
        return experiment.model.apply(variables, images, skip_mask=mask)

    images = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), jnp.float32)
    program = jax.make_jaxpr(forward)(experiment.shapes.variables, images)
    convolutions = equations(program.jaxpr, "conv_general_dilated")
    assert works_of(experiment)[depth].features == sum(
        each.outvars[0].aval.size for each in convolutions
    )


def test_the_all_reduce_of_the_estimate_is_that_of_the_compiled_step(experiment):
    compiled = compile_step(experiment, experiment.ladder[2].skip_mask, jax.devices()[:2])
    (sent,) = collectives(compiled.as_text())
    work = works_of(experiment)[2]
    assert (work.averaged_bytes, work.averaged_arrays) == (sent.size_bytes, sent.arrays)


@pytest.mark.slow
def test_the_command_counts_measures_and_estimates(run_command):
    sizes = ("--depth_n=1", "--batch_size=4", "--devices=1,2", "--repeats=1")
    finished = run_command("benchmarks.scaling", *sizes)
    assert finished.returncode == 0, finished.stderr
    one, two = (
        line.split(" | ")[1:4]
        for line in finished.stdout.splitlines()
        if line[:4] in ("| 1 ", "| 2 ")
    )
    assert one == two
    assert one[:2] == ["1", "0"]
    assert "| all 54 blocks | 2048 |" in finished.stdout
