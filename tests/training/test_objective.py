"""Objectives: what a step works on is one value, and the paper's is one mask of weight one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax.depth import Policy, draw, full_or_uniform, make_ladder
from accordion_jax.models import kept_units
from accordion_jax.training import objective, step
from accordion_jax.training.objective import (
    Draw,
    drawn_depth,
    expected,
    in_order_of_need,
    make_objective,
    nested,
    sandwich,
    single,
)
from accordion_jax.training.state import example_spec, init_state
from tests.training.test_step import (
    EXAMPLES,
    KEY,
    OPTIMIZER,
    TASK,
    dataset,
    make_model,
    make_step,
    stack,
    take_steps,
)

__all__ = ["dataset"]

LADDER = make_ladder("coml", (2, 1, 1))
FULL, SHORT, GAPS = (False,) * 4, (False, True, True, True), (False, True, False, True)


def test_the_papers_objective_is_one_drawn_mask_of_weight_one():
    policy = full_or_uniform(LADDER, 0.5)
    for number in range(50):
        found = drawn_depth(LADDER, policy, 3, number)
        mask = LADDER[draw(policy, seed=3, step=number)].skip_mask
        assert found == single(mask) == Draw((mask,), (1.0,))
        assert found.skip_mask == mask
        assert found.depth == 4 - sum(mask)


def test_a_draw_touches_what_any_of_its_masks_keeps():
    several = Draw((SHORT, GAPS), (0.25, 0.75))
    assert several.skip_mask == GAPS
    assert several.depth == 2
    assert hash(several) == hash(Draw((SHORT, GAPS), (0.25, 0.75)))


def test_in_order_of_need_is_the_order_of_the_first_time():
    draw_of = functools.partial(drawn_depth, LADDER, full_or_uniform(LADDER, 0.5), 3)
    draws = [draw_of(number) for number in range(10, 200)]
    assert in_order_of_need(draw_of, range(10, 200)) == list(dict.fromkeys(draws))
    assert in_order_of_need(draw_of, range(10, 12)) == list(dict.fromkeys(draws[:2]))
    assert in_order_of_need(draw_of, range(0)) == []


@pytest.mark.parametrize(
    ("masks", "weights", "words"),
    [
        ((), (), "0 skip masks and 0 weights"),
        ((FULL,), (1.0, 2.0), "1 skip masks and 2 weights"),
        ((FULL, (True,)), (1.0, 1.0), "of one length"),
        ((FULL, FULL), (0.5, 0.5), "twice; add up"),
        ((FULL,), (0.0,), "must be positive"),
        ((FULL,), (float("nan"),), "must be positive"),
    ],
)
def test_what_is_no_draw_is_refused(masks, weights, words):
    with pytest.raises(ValueError, match=words):
        Draw(masks, weights)


def test_several_masks_have_the_weighted_sum_of_their_gradients(dataset):
    model, several = make_model(), Draw((SHORT, FULL), (0.25, 0.75))
    found, (metrics,) = take_steps(model, [several], 1, dataset)
    state = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
    images, labels = dataset
    rows = np.arange(EXAMPLES)[::-1][:16]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 0), 2)
    x = jax.jit(lambda x, key: TASK.prepare(TASK.augment(x, TASK.draw(key, 16))))(images[rows], key)

    def loss_of(params, mask):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(variables, x, skip_mask=mask, train=True, mutable=["batch_stats"])
        return TASK.loss(logits, labels[rows]).mean(), jnp.mean(logits.argmax(-1) != labels[rows])

    graded = jax.jit(jax.value_and_grad(loss_of, has_aux=True), static_argnums=1)
    (short, short_error), of_short = graded(state.params, SHORT)
    (full, full_error), of_full = graded(state.params, FULL)
    assert metrics["loss"] == pytest.approx(float(0.25 * short + 0.75 * full), rel=1e-5)
    assert metrics["error"] == pytest.approx(float(0.25 * short_error + 0.75 * full_error))
    gradients = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, of_short, of_full)
    expected = jax.tree.map(lambda p, g: p - 0.1 * (g + 1e-2 * p), state.params, gradients)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found.params, expected)


def test_one_mask_of_weight_one_adds_nothing_to_the_program(dataset):
    model, images = make_model(), dataset[0]

    def program(drawn):
        state = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
        kept = state.keep(kept_units(model, drawn.skip_mask))
        order = np.arange(EXAMPLES, dtype=np.int32)
        inputs = (order, images.reshape(EXAMPLES, -1), dataset[1], KEY)
        mapped = jax.pmap(
            make_step(model, drawn, 1), axis_name=step.AXIS, devices=jax.devices()[:1]
        )
        return mapped.lower(*stack((kept, *inputs), 1)).as_text()

    def plain(drawn, task, outputs, targets, state, soft):
        only = outputs[0]
        loss = task.loss(only, targets).mean()
        return loss, {"loss": loss, "error": jnp.mean(task.wrong(only, targets))}

    as_it_is = program(single(SHORT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "weighted_loss", plain)
        assert program(single(SHORT)) == as_it_is
    assert program(Draw((SHORT,), (0.5,))) != as_it_is


def test_objectives_are_chosen_by_name():
    assert objective.OBJECTIVES["drawn_depth"] is drawn_depth
    policy = full_or_uniform(LADDER, 0.5)
    assert make_objective("expected")(LADDER, policy, 0, 0) == expected(LADDER, policy, 0, 0)
    assert make_objective("nested", deepest_weight=0.7)(LADDER, policy, 0, 1) == nested(
        LADDER, policy, 0, 1, deepest_weight=0.7
    )


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("expectd", {}, r"name='expectd' is not known; choose one of \['drawn_depth'"),
        ("expected", {"draws": 2}, "draws: 'expected' has no such field; it has distillation"),
        ("drawn_depth", {"distillation": 0.5}, "several configurations.* use 'expected'"),
        ("drawn_depth", {"balanced": True}, "several configurations"),
        ("nested", {"deepest_weight": 0.0}, "deepest_weight=0.0 must be above 0"),
        ("nested", {"deepest_weight": 1.5}, "deepest_weight=1.5 must be above 0"),
        ("sandwich", {"draws": 0}, "draws=0 of a sandwich must be at least 1"),
        ("expected", {"distillation": 1.5}, "distillation=1.5 must be a share"),
        ("expected", {"distillation": 0.5, "temperature": 0.0}, "temperature=0.0 must be positive"),
    ],
)
def test_what_no_objective_takes_is_refused(name, fields, words):
    with pytest.raises(ValueError, match=words):
        make_objective(name, **fields)(LADDER, full_or_uniform(LADDER, 0.5), 0, 0)


@pytest.mark.parametrize("teacher", [-1, 2])
def test_a_teacher_is_one_of_the_masks(teacher):
    with pytest.raises(ValueError, match=f"teacher={teacher} of a draw must be the index"):
        Draw((SHORT, FULL), (0.5, 0.5), teacher=teacher)


POLICIES = [
    full_or_uniform(LADDER, 0.5),
    full_or_uniform(LADDER, 0.3, min_depth=0),
    Policy((0.0, 0.0, 0.4, 0.6, 0.0)),
    Policy((0.0, 0.0, 1.0, 0.0, 0.0)),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_all_depths_are_weighted_by_the_policy_and_are_one_program(policy):
    draws = {expected(LADDER, policy, 3, number) for number in range(20)}
    (found,) = draws
    masks = {LADDER[i].skip_mask: p for i, p in enumerate(policy.probabilities) if p > 0}
    assert dict(zip(found.skip_masks, found.weights, strict=True)) == masks


@pytest.mark.parametrize("policy", POLICIES)
def test_a_nested_step_works_on_the_blocks_of_the_paper_s_and_its_weights_sum_to_one(policy):
    for number in range(50):
        found = nested(LADDER, policy, 3, number, deepest_weight=0.6)
        drawn = drawn_depth(LADDER, policy, 3, number)
        assert found.skip_mask == drawn.skip_mask
        assert sum(found.weights) == pytest.approx(1)
        assert found.weights[-1] == pytest.approx(0.6 if len(found.weights) > 1 else 1)
        smaller = [c.skip_mask for i, c in enumerate(LADDER) if policy.probabilities[i] > 0]
        assert found.skip_masks == tuple(smaller[: smaller.index(drawn.skip_mask) + 1])


@pytest.mark.parametrize("draws", [1, 2, 5])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_sandwich_has_the_policy_s_weights_on_average(policy, draws):
    totals = dict.fromkeys(range(len(LADDER)), 0.0)
    steps = 4000
    for number in range(steps):
        found = sandwich(LADDER, policy, 3, number, draws=draws)
        assert sum(found.weights) == pytest.approx(1)
        assert LADDER[min(policy.drawn)].skip_mask in found.skip_masks
        assert LADDER[max(policy.drawn)].skip_mask in found.skip_masks
        for mask, weight in zip(found.skip_masks, found.weights, strict=True):
            totals[mask.count(False)] += weight / steps
    # Six standard deviations of a mean of `steps` draws, of at most the share that is drawn.
    np.testing.assert_allclose(list(totals.values()), policy.probabilities, atol=6 * 0.5 / 63)
    ends = [min(policy.drawn), max(policy.drawn)]
    assert [totals[i] for i in ends] == pytest.approx([policy.probabilities[i] for i in ends])


def test_a_draw_has_one_teacher():
    with pytest.raises(ValueError, match="taught by its mask 0 and from outside"):
        Draw(((True,), (False,)), (0.5, 0.5), teacher=0, outside=True)


@pytest.mark.parametrize("name", ["expected", "nested", "sandwich"])
def test_a_block_that_no_mask_keeps_stays_bit_for_bit(dataset, name):
    model, policy = make_model(), Policy((0.0, 0.4, 0.6, 0.0, 0.0))
    drawn = make_objective(name, distillation=0.5)(LADDER, policy, 3, 0)
    state, (metrics,) = take_steps(model, [drawn], 1, dataset)
    before = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
    kept = kept_units(model, drawn.skip_mask)
    for unit in before.params:
        same = jax.tree.map(
            np.array_equal,
            (before.params[unit], before.batch_stats.get(unit), before.opt_state[unit]),
            (state.params[unit], state.batch_stats.get(unit), state.opt_state[unit]),
        )
        assert all(jax.tree.leaves(same)) == (unit not in kept)
    assert np.isfinite(float(metrics["loss"]))
