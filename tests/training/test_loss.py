"""The loss of a draw: the weighted sum of its masks' losses, and what teachers change in it."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accordion_jax.depth import full_or_uniform, make_ladder
from accordion_jax.models import prefixes
from accordion_jax.tasks.answers import cross_entropy, not_the_largest, soft_cross_entropy
from accordion_jax.training import loss
from accordion_jax.training.objective import Draw, expected, make_objective, sandwich, single
from tests.training.test_step import TASK

LADDER = make_ladder("coml", (2, 1, 1))
FULL, SHORT = (False,) * 4, (False, True, True, True)


def test_weights_that_do_not_sum_to_one_scale_the_loss_but_not_the_error():
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(2, 16, 10)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 10, 16), jnp.int32)
    masks = (SHORT, FULL)
    unit, at_one = loss.weighted_loss(Draw(masks, (0.5, 0.5)), TASK, outputs, targets)
    twice, at_two = loss.weighted_loss(Draw(masks, (1.0, 1.0)), TASK, outputs, targets)
    assert float(twice) == pytest.approx(2 * float(unit))
    assert float(at_two["error"]) == pytest.approx(float(at_one["error"]))


@pytest.mark.parametrize("shape", [(2, 16), (1, 8, 10), (2, 16, 10, 1)])
def test_answers_of_another_shape_are_refused_before_they_are_broadcast(shape):
    with pytest.raises(AssertionError, match=r"shape"):
        loss.weighted_loss(
            Draw((SHORT, FULL), (0.5, 0.5)), TASK, jnp.zeros(shape), jnp.zeros(16, jnp.int32)
        )


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
