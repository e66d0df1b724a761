"""Objectives: what a step works on is one value, and the paper's is one mask of weight one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax.depth import draw, full_or_uniform, make_ladder
from accordion_jax.models import kept_units
from accordion_jax.training import objective, step
from accordion_jax.training.objective import Draw, drawn_depth, in_order_of_need, single
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


def test_weights_that_do_not_sum_to_one_scale_the_loss_but_not_the_error():
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(2, 16, 10)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 10, 16), jnp.int32)
    masks = (SHORT, FULL)
    unit, at_one = objective.weighted_loss(Draw(masks, (0.5, 0.5)), TASK, outputs, targets)
    twice, at_two = objective.weighted_loss(Draw(masks, (1.0, 1.0)), TASK, outputs, targets)
    assert float(twice) == pytest.approx(2 * float(unit))
    assert float(at_two["error"]) == pytest.approx(float(at_one["error"]))


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

    def plain(drawn, task, outputs, targets):
        only = outputs[0]
        loss = task.loss(only, targets).mean()
        return loss, {"loss": loss, "error": jnp.mean(task.wrong(only, targets))}

    as_it_is = program(single(SHORT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "weighted_loss", plain)
        assert program(single(SHORT)) == as_it_is
    assert program(Draw((SHORT,), (0.5,))) != as_it_is


@pytest.mark.parametrize("shape", [(2, 16), (1, 8, 10), (2, 16, 10, 1)])
def test_answers_of_another_shape_are_refused_before_they_are_broadcast(shape):
    with pytest.raises(AssertionError, match=r"shape"):
        objective.weighted_loss(
            Draw((SHORT, FULL), (0.5, 0.5)), TASK, jnp.zeros(shape), jnp.zeros(16, jnp.int32)
        )


def test_objectives_are_chosen_by_name():
    assert objective.OBJECTIVES["drawn_depth"] is drawn_depth
