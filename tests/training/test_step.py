"""The step: what it changes, what it leaves, and that devices only share the work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accordion_jax.models import ResNet, kept_units
from accordion_jax.tasks import Images
from accordion_jax.training import step as step_lib
from accordion_jax.training.objective import Draw, single
from accordion_jax.training.state import example_spec, init_state

BATCH = 16
KEY = np.asarray(jax.random.key_data(jax.random.key(7)))
EXAMPLES = 40
TASK = Images((8, 8, 3), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), pad=1, flip=True)
OPTIMIZER = optax.chain(optax.add_decayed_weights(1e-2), optax.trace(0.9))


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 8, 8, 3), np.uint8)
    labels = rng.integers(0, 10, EXAMPLES).astype(np.int32)
    return images, labels


def make_model(axis_name=None, sizes=(2, 1, 1), scan_stages=False):
    return ResNet(10, sizes, (4, 8, 8)[: len(sizes)], axis_name=axis_name, scan_stages=scan_stages)


def make_step(model, mask, devices, **overrides):
    arguments = {
        "model": model,
        "task": TASK,
        "draw": mask if isinstance(mask, Draw) else single(mask),
        "optimizer": OPTIMIZER,
        "learning_rate": lambda step: 0.1,
        "batch_size": BATCH,
        "devices": devices,
    } | overrides
    return functools.partial(step_lib.train_step, **arguments)


def stack(tree, devices):
    return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (devices, *x.shape)), tree)


def take_steps(model, masks, devices, dataset):
    """The state after a step with each mask or draw, on so many devices, as NumPy arrays."""
    state = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
    images, labels = dataset
    order = np.arange(EXAMPLES, dtype=np.int32)[::-1]
    inputs = stack((order, images.reshape(EXAMPLES, -1), labels, KEY), devices)
    state = stack(state, devices)
    metrics = []
    for mask in masks:
        draw = mask if isinstance(mask, Draw) else single(mask)
        step = jax.pmap(
            make_step(model, draw, devices),
            axis_name=step_lib.AXIS,
            devices=jax.devices()[:devices],
        )
        updated, numbers = step(state.keep(kept_units(model, draw.skip_mask)), *inputs)
        state = state.merge(updated)
        metrics.append({name: float(value[0]) for name, value in numbers.items()})
    return jax.tree.map(lambda x: np.asarray(x[0]), state), metrics


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_skipped_blocks_keep_parameters_momentum_and_statistics_bit_for_bit(dataset):
    full, short = (False,) * 4, (False, True, True, False)
    after_full, _ = take_steps(make_model(), [full], 1, dataset)
    after_short, _ = take_steps(make_model(), [full, short], 1, dataset)
    for name in ("params", "batch_stats", "opt_state"):
        before, after = getattr(after_full, name), getattr(after_short, name)
        for skipped in ("stage1_block02", "stage2_block01"):
            assert_same(before[skipped], after[skipped])
        for kept in ("stem", "stage1_block01", "stage3_block01"):
            changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), before[kept], after[kept])
            assert all(jax.tree.leaves(changed)), f"{name} of {kept}"
    assert int(after_short.step) == 2


@pytest.mark.slow
@pytest.mark.parametrize("axis_name", [None, step_lib.AXIS])
def test_steps_with_scanned_stages_are_those_of_the_unrolled_network(dataset, axis_name):
    gaps = (False, True, False)
    unrolled, scanned = (make_model(axis_name, (3,), scan) for scan in (False, True))
    expected, metrics = take_steps(unrolled, [gaps], 2, dataset)
    found, scanned_metrics = take_steps(scanned, [gaps], 2, dataset)
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, expected)
    jax.tree.map(close, scanned_metrics, metrics)
    before = init_state(scanned, OPTIMIZER, jax.random.key(0), example_spec(TASK))
    for unit, skip in zip(scanned.block_names, gaps, strict=True):
        for tree in ("params", "batch_stats", "opt_state"):
            pairs = (getattr(state, tree)[unit] for state in (before, found))
            same = jax.tree.map(np.array_equal, *pairs)
            assert all(jax.tree.leaves(same)) == skip, f"{tree} of {unit}"


def test_step_is_sgd_with_momentum_and_weight_decay(dataset):
    """Against the update written out: v = m v + g + w p; p = p - r v, twice."""
    model, mask = make_model(), (False, False, True, True)
    images, labels = dataset
    state = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
    units = kept_units(model, mask)
    params = {unit: state.params[unit] for unit in units}
    stats = {unit: state.batch_stats[unit] for unit in units if unit in state.batch_stats}
    velocity = jax.tree.map(jnp.zeros_like, params)
    order = np.arange(EXAMPLES)[::-1]
    for step in range(2):
        rows = order[step * BATCH : (step + 1) * BATCH]
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), step), 2)
        prepared = jax.jit(lambda x, key: TASK.prepare(TASK.augment(x, TASK.draw(key, BATCH))))
        x = prepared(images[rows], key)

        def loss_of(params, x=x, rows=rows, stats=stats):
            logits, updated = model.apply(
                {"params": params, "batch_stats": stats},
                x,
                skip_mask=mask,
                train=True,
                mutable=["batch_stats"],
            )
            log_p = jax.nn.log_softmax(logits)
            picked = jnp.take_along_axis(log_p, labels[rows][:, None], axis=1)
            return -picked.mean(), updated["batch_stats"]

        gradients, stats = jax.jit(jax.grad(loss_of, has_aux=True))(params)
        velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 1e-2 * p, velocity, gradients, params)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    found, _ = take_steps(model, [mask, mask], 1, dataset)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        {unit: found.params[unit] for unit in units},
        params,
    )


@pytest.mark.slow
@pytest.mark.devices(8)
def test_cross_replica_batch_norm_makes_eight_devices_equal_one(dataset):
    masks = [(False, True, False, True)] * 2
    model = make_model(axis_name=step_lib.AXIS)
    one, metrics_one = take_steps(model, masks, 1, dataset)
    eight, metrics_eight = take_steps(model, masks, 8, dataset)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, one, eight)
    jax.tree.map(close, metrics_one, metrics_eight)


@pytest.mark.devices(8)
def test_without_it_each_device_normalises_its_own_shard(dataset):
    mask = (False,) * 4
    one, _ = take_steps(make_model(), [mask], 1, dataset)
    eight, _ = take_steps(make_model(), [mask], 8, dataset)
    kernel = one.params["stage1_block01"]["conv1"]["kernel"]
    assert not np.allclose(kernel, eight.params["stage1_block01"]["conv1"]["kernel"], atol=1e-4)
    # The mean of equal shards' means is the mean; the first layer sees the same images in both.
    np.testing.assert_allclose(
        one.batch_stats["stem"]["norm"]["mean"],
        eight.batch_stats["stem"]["norm"]["mean"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_epoch_order_is_a_permutation_of_its_own_epoch_and_seed():
    one, two = (jax.random.key_data(jax.random.key(seed)) for seed in (1, 2))
    order = functools.partial(step_lib.epoch_order, steps_per_epoch=5, examples=EXAMPLES)
    first = order(jnp.int32(0), one)
    assert sorted(first.tolist()) == list(range(EXAMPLES))
    np.testing.assert_array_equal(first, order(jnp.int32(4), one))
    assert first.tolist() != order(jnp.int32(5), one).tolist()
    assert first.tolist() != order(jnp.int32(0), two).tolist()


def test_double_precision_elsewhere_changes_no_type(dataset):
    model, mask = make_model(), (False, False, True, True)
    images, labels = dataset
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
        inputs = (np.arange(EXAMPLES, dtype=np.int32), images.reshape(EXAMPLES, -1), labels, KEY)
        arguments = stack((state.keep(kept_units(model, mask)), *inputs), 1)
        step = jax.pmap(
            make_step(model, mask, 1, learning_rate=optax.cosine_decay_schedule(0.1, 100)),
            axis_name=step_lib.AXIS,
            devices=jax.devices()[:1],
        )
        updated, _ = jax.eval_shape(step, *arguments)
    types = [jax.tree.map(lambda x: str(x.dtype), tree) for tree in (arguments[0], updated)]
    assert types[0] == types[1]
    assert {*jax.tree.leaves(types[1])} == {"float32", "int32"}


def test_a_step_moves_nothing_between_host_and_device(dataset):
    model, mask = make_model(), (False, False, True, True)
    state = init_state(model, OPTIMIZER, jax.random.key(0), example_spec(TASK))
    images, labels = dataset
    inputs = (np.arange(EXAMPLES, dtype=np.int32), images.reshape(EXAMPLES, -1), labels, KEY)
    arguments = stack((state.keep(kept_units(model, mask)), *inputs), 1)
    step = jax.pmap(make_step(model, mask, 1), axis_name=step_lib.AXIS, devices=jax.devices()[:1])
    compiled = step.lower(*arguments).compile()
    arguments = jax.device_put(arguments, compiled.input_shardings[0])
    with jax.transfer_guard("disallow"):
        compiled(*arguments)
