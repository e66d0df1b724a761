"""Objectives: what a step works on is one value, and the paper's is one mask of weight one."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax.depth import Policy, draw, full_or_uniform, make_ladder
from accordion_jax.models import kept_units, prefixes
from accordion_jax.tasks.answers import cross_entropy, not_the_largest, soft_cross_entropy
from accordion_jax.training import loss, objective, step
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


def test_weights_that_do_not_sum_to_one_scale_the_loss_but_not_the_error():
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(2, 16, 10)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 10, 16), jnp.int32)
    masks = (SHORT, FULL)
    unit, at_one = loss.weighted_loss(Draw(masks, (0.5, 0.5)), TASK, outputs, targets)
    twice, at_two = loss.weighted_loss(Draw(masks, (1.0, 1.0)), TASK, outputs, targets)
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

    def plain(drawn, task, outputs, targets, state, soft):
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
        loss.weighted_loss(
            Draw((SHORT, FULL), (0.5, 0.5)), TASK, jnp.zeros(shape), jnp.zeros(16, jnp.int32)
        )


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


class SmallTask:
    """What `weighted_loss` asks of a task."""

    loss = staticmethod(cross_entropy)
    distillation_loss = staticmethod(soft_cross_entropy)
    wrong = staticmethod(not_the_largest)


def small_network(params, x, skip_masks):
    """Residual blocks in plain JAX, of the type of what they are given."""
    return prefixes.walk(
        skip_masks,
        x,
        block=lambda i, x: x + jnp.tanh(x @ params["blocks"][i]),
        read_out=lambda x: x @ params["head"],
    )


@pytest.fixture
def small():
    """Parameters and a batch in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = {
            "blocks": [jnp.asarray(rng.normal(size=(6, 6)) / 2) for _ in range(4)],
            "head": jnp.asarray(rng.normal(size=(6, 5))),
        }
        x, y = jnp.asarray(rng.normal(size=(32, 6))), jnp.asarray(rng.integers(0, 5, 32))
        assert x.dtype == jnp.float64
        yield params, x, y


def graded(drawn, params, x, y):
    """Loss, metrics and gradient of a draw."""

    def loss_of(params):
        outputs = small_network(params, x, drawn.skip_masks)
        return loss.weighted_loss(drawn, SmallTask, outputs, y)

    (total, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    return total, metrics, gradient


def close(one, other):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14), one, other)


@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_the_expected_loss_and_gradient_are_the_weighted_sum_of_each_alone(small, scheme):
    ladder = make_ladder(scheme, (2, 2))
    policy = full_or_uniform(ladder, 0.5, min_depth=0)
    total, metrics, gradient = graded(expected(ladder, policy, 0, 0), *small)
    alone = [graded(single(each.skip_mask), *small) for each in ladder]
    p = policy.probabilities
    close(total, sum(w * each[0] for w, each in zip(p, alone, strict=True)))
    close(metrics["error"], sum(w * each[1]["error"] for w, each in zip(p, alone, strict=True)))
    gradients = (each[2] for each in alone)
    close(gradient, jax.tree.map(lambda *g: sum(map(operator.mul, p, g)), *gradients))


def test_the_expected_gradient_is_the_mean_over_all_draws_of_the_paper_s(small):
    policy = full_or_uniform(LADDER, 0.5)
    _, _, wanted = graded(expected(LADDER, policy, 0, 0), *small)
    mean = jax.tree.map(jnp.zeros_like, wanted)
    for index in policy.drawn:  # every draw that there is, as often as it comes
        _, _, gradient = graded(single(LADDER[index].skip_mask), *small)
        mean = jax.tree.map(lambda m, g, p=policy.probabilities[index]: m + p * g, mean, gradient)
    close(mean, wanted)


def test_the_mean_gradient_over_all_sandwiches_is_the_policy_s(small):
    policy = full_or_uniform(LADDER, 0.5)
    _, _, wanted = graded(expected(LADDER, policy, 0, 0), *small)
    # Each sandwich that there is, by what it drew; the two between are drawn alike often.
    sandwiches = {sandwich(LADDER, policy, 3, number) for number in range(100)}
    assert len(sandwiches) == 2
    gradients = [graded(each, *small)[2] for each in sandwiches]
    close(jax.tree.map(lambda a, b: (a + b) / 2, *gradients), wanted)


def test_a_deepest_configuration_teaches_the_others_and_is_not_taught(small):
    params, x, y = small
    policy = full_or_uniform(LADDER, 0.5)
    plain = expected(LADDER, policy, 0, 0)
    taught = make_objective("expected", distillation=0.25, temperature=2.0)(LADDER, policy, 0, 0)
    assert taught.skip_masks[taught.teacher] == LADDER.full.skip_mask
    outputs = small_network(params, x, plain.skip_masks)
    total, metrics = loss.weighted_loss(taught, SmallTask, outputs, y)
    probabilities = [jax.nn.softmax(each / 2) for each in outputs]
    wanted = hard = soft = 0.0
    for w, each, p in zip(plain.weights, outputs, probabilities, strict=True):
        task_loss = cross_entropy(each, y).mean()
        teacher = probabilities[-1]
        divergence = 4 * jnp.sum(teacher * jnp.log(teacher / p), -1).mean()
        if each is not outputs[-1] and w != plain.weights[-1]:
            hard, soft = hard + w / 0.5 * task_loss, soft + w / 0.5 * divergence
            wanted += w * (0.75 * task_loss + 0.25 * divergence)
        else:
            wanted += w * task_loss
    close(total, wanted)
    close(metrics["task_loss"], hard)
    close(metrics["distillation_loss"], soft)
    # The teacher does not move to where its pupils are: its own gradient is as alone.
    by_outputs = jax.grad(lambda o: loss.weighted_loss(taught, SmallTask, o, y)[0])(outputs)
    untaught = jax.grad(lambda o: loss.weighted_loss(plain, SmallTask, o, y)[0])(outputs)
    close(by_outputs[-1], untaught[-1])


@pytest.mark.parametrize("name", ["drawn_depth", "expected"])
def test_another_network_teaches_all_of_a_draw(small, name):
    params, x, y = small
    policy = full_or_uniform(LADDER, 0.5)
    options = {"distillation": 0.25, "temperature": 2.0, "outside": True}
    drawn = make_objective(name, **options)(LADDER, policy, 0, 0)
    assert drawn.taught == tuple(range(len(drawn.skip_masks)))
    outputs = small_network(params, x, drawn.skip_masks)
    answers = jnp.asarray(np.random.default_rng(1).normal(size=outputs.shape[1:]))
    total, metrics = loss.weighted_loss(drawn, SmallTask, outputs, y, None, answers)
    teacher, wanted = jax.nn.softmax(answers / 2), 0.0
    for w, each in zip(drawn.weights, outputs, strict=True):
        divergence = jnp.sum(teacher * (jnp.log(teacher) - jax.nn.log_softmax(each / 2)), -1)
        wanted += w * (0.75 * cross_entropy(each, y).mean() + 0.25 * 4 * divergence.mean())
    close(total, wanted)
    assert metrics.keys() == {"loss", "error", "task_loss", "distillation_loss"}
    with pytest.raises(AssertionError):
        loss.weighted_loss(drawn, SmallTask, outputs, y, None, answers[:1])


def test_a_draw_has_one_teacher():
    with pytest.raises(ValueError, match="taught by its mask 0 and from outside"):
        Draw(((True,), (False,)), (0.5, 0.5), teacher=0, outside=True)


def test_balanced_losses_pull_by_their_logarithms_and_keep_their_sum(small):
    params, x, y = small
    policy = full_or_uniform(LADDER, 0.5)
    plain = expected(LADDER, policy, 0, 0)
    balanced = make_objective("expected", balanced=True)(LADDER, policy, 0, 0)

    def losses(params):
        outputs = small_network(params, x, plain.skip_masks)
        return jnp.stack([cross_entropy(each, y).mean() for each in outputs])

    w = jnp.asarray(plain.weights)
    direction = jax.grad(lambda params: jnp.sum(w * jnp.log(losses(params))))(params)
    scale = jnp.sum(w) / jnp.sum(w / losses(params))
    _, _, gradient = graded(balanced, params, x, y)
    close(gradient, jax.tree.map(lambda g: g * scale, direction))


def test_answers_are_softened_as_hinton_s(small):
    del small
    rng = np.random.default_rng(1)
    outputs, teacher = jnp.asarray(rng.normal(size=(2, 7, 5)))
    close(soft_cross_entropy(outputs, outputs, 3.0), jnp.zeros(7))
    # At a high temperature it is the squared distance of centred logits, over twice their number.
    gap = (outputs - outputs.mean(-1, keepdims=True)) - (teacher - teacher.mean(-1, keepdims=True))
    np.testing.assert_allclose(
        soft_cross_entropy(outputs, teacher, 1e4), jnp.sum(gap**2, -1) / 10, rtol=1e-3
    )


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
