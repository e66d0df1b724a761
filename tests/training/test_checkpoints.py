"""Checkpoints: kept as promised, restored strictly, damage noticed."""

import contextlib

import jax
import numpy as np
import optax
import pytest

from accordion_jax.models import ResNet
from accordion_jax.training import CheckpointError, Checkpoints, init_state

OPTIMIZER = optax.trace(0.9)


def make_state(channels=(4, 8, 8)):
    model = ResNet(10, (1, 1, 1), channels)
    return jax.tree.map(np.asarray, init_state(model, OPTIMIZER, jax.random.key(0), (8, 8, 1)))


@pytest.fixture(scope="module")
def state():
    return make_state()


def open_(folder, **kwargs):
    return contextlib.closing(Checkpoints(folder, **kwargs))


def save(folder, state, errors, keep=2):
    with open_(folder, keep=keep) as checkpoints:
        for step, error in enumerate(errors, 1):
            checkpoints.save(step, state, None if error is None else {"error": error})
            checkpoints.wait()


def test_round_trip_is_bit_for_bit(tmp_path, state):
    save(tmp_path, state, [None])
    with open_(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_keeps_the_latest_and_the_best_also_after_reopening(tmp_path, state):
    save(tmp_path, state, [0.5, 0.2, 0.4, None, None])
    with open_(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (5, 2)
        for step, error in ((6, 0.3), (7, 0.6)):
            checkpoints.save(step, state, {"error": error})
            checkpoints.wait()
        assert (checkpoints.latest, checkpoints.best) == (7, 2)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 6, 7]


def test_a_read_only_folder_must_exist(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoints(tmp_path / "none", read_only=True)


def test_another_network_is_refused_naming_leaf_and_shapes(tmp_path, state):
    save(tmp_path, state, [None])
    wider = make_state((4, 8, 16))
    with open_(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=r"leaf '.*' is float32\[.*wants float32\["):
            checkpoints.restore(1, wider)
        fewer = state._replace(params={"stem": state.params["stem"]})
        with pytest.raises(CheckpointError, match="unknown leaf 'params/head/bias'"):
            checkpoints.restore(1, fewer)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_noticed_and_the_remedy_named(tmp_path, state, damage):
    save(tmp_path, state, [None])
    files = [path for path in (tmp_path / "1" / "state").rglob("*") if path.is_file()]
    for path in files:
        content = bytearray(path.read_bytes())
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "remove":
            path.unlink()
        elif path.parent.name == "d":  # the arrays' bytes
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
    with (
        open_(tmp_path, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match=r"1 (cannot be read|is damaged).*delete that folder"),
    ):
        checkpoints.restore(1, state)
