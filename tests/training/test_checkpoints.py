"""Checkpoints: kept as promised, restored strictly, damage noticed."""

import contextlib
import re
import shutil

import jax
import numpy as np
import optax
import pytest

from accordion_jax.models import ResNet
from accordion_jax.training import CheckpointError, Checkpoints, init_state

EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
OPTIMIZER = optax.trace(0.9)


def make_state(channels=(4, 8, 8)):
    model = ResNet(10, (1, 1, 1), channels)
    return jax.tree.map(np.asarray, init_state(model, OPTIMIZER, jax.random.key(0), EXAMPLE))


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


def damage(checkpoint, how):
    """Damages what a checkpoint holds of the state."""
    for path in [path for path in (checkpoint / "state").rglob("*") if path.is_file()]:
        content = bytearray(path.read_bytes())
        if how == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif how == "remove":
            path.unlink()
        elif path.parent.name == "d":  # the arrays' bytes
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)


def restore_latest(folder, like):
    """The latest step, and its state."""
    with open_(folder, read_only=True) as checkpoints:
        return checkpoints.latest, checkpoints.restore(checkpoints.latest, like)


@pytest.mark.parametrize("how", ["truncate", "flip", "remove"])
@pytest.mark.tries("move that folder out of {} and run the same command")
def test_the_remedy_for_a_damaged_checkpoint_works(tmp_path, state, how):
    folder = tmp_path / "checkpoints"
    save(folder, state, [None, None])
    damage(folder / "2", how)
    with pytest.raises(CheckpointError) as refused:
        restore_latest(folder, state)
    assert re.search(rf"{folder}/2 (cannot be read|is damaged)", str(refused.value))
    assert f"move that folder out of {folder} and run the same command" in str(refused.value)
    assert str(refused.value).endswith("it goes on from step 1")
    # As it says; nothing is lost that could still be mended.
    (folder / "2").rename(tmp_path / "2")
    step, restored = restore_latest(folder, state)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize("how", ["truncate", "flip", "remove"])
@pytest.mark.tries("there is no other checkpoint: put a copy of that folder in its place")
def test_nobody_is_told_to_give_up_the_only_checkpoint(tmp_path, state, how):
    folder = tmp_path / "checkpoints"
    save(folder, state, [None])
    shutil.copytree(folder / "1", tmp_path / "copy")
    damage(folder / "1", how)
    with pytest.raises(CheckpointError) as refused:
        restore_latest(folder, state)
    assert "there is no other checkpoint: put a copy of that folder in its place" in str(
        refused.value
    )
    assert not re.search("delete|remove|move", str(refused.value))
    # As it says.
    shutil.rmtree(folder / "1")
    (tmp_path / "copy").rename(folder / "1")
    assert restore_latest(folder, state)[0] == 1


@pytest.mark.tries("use a path without it (a run that is there may be moved)")
def test_a_path_that_is_taken_for_a_pattern_is_refused_and_a_run_may_be_moved(tmp_path, state):
    save(tmp_path / "run", state, [None])
    (tmp_path / "run").rename(tmp_path / "[trial]")
    for read_only in (True, False):
        with pytest.raises(ValueError, match=r"cannot be kept in .*\[trial\].* may be moved"):
            Checkpoints(tmp_path / "[trial]", read_only=read_only)
    (tmp_path / "[trial]").rename(tmp_path / "moved")  # as it says
    assert restore_latest(tmp_path / "moved", state)[0] == 1


@pytest.mark.tries("use a --workdir on another file system")
def test_a_first_checkpoint_that_cannot_be_read_is_known_at_once(tmp_path, state, monkeypatch):
    monkeypatch.setattr("accordion_jax.training.checkpoints.check_path", lambda path: None)
    with open_(tmp_path / "[trial]") as checkpoints:
        with pytest.raises(CheckpointError, match=r"1 was written, and (cannot be read|reads)"):
            checkpoints.save(1, state)
        with pytest.raises(CheckpointError, match=r"2 was written, and (cannot be read|reads)"):
            checkpoints.save(2, state)
    save(tmp_path / "elsewhere", state, [None])  # as it says
    assert restore_latest(tmp_path / "elsewhere", state)[0] == 1


def test_what_is_said_to_be_saved_can_be_read_by_another(tmp_path, state):
    with open_(tmp_path) as checkpoints:
        assert checkpoints.saved is None
        checkpoints.save(1, state)
        assert checkpoints.saved == 1  # the first is waited for
        for step in range(2, 6):
            checkpoints.save(step, state)
            said = checkpoints.saved
            assert said in (step - 1, step)
            with open_(tmp_path, read_only=True) as reader:
                assert said in reader.steps
                reader.restore(said, state)
        checkpoints.wait()
        assert checkpoints.saved == 5
    with open_(tmp_path) as checkpoints:
        assert checkpoints.saved == 5


def test_a_write_that_fails_is_not_said_to_be_saved(tmp_path, state, monkeypatch):
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, state)
        # What is being written never gets its name, as on a full disk.
        monkeypatch.setattr(checkpoints._manager, "save", lambda *args, **kwargs: True)
        fails = OSError("the disk is full")

        def wait():
            raise fails

        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", wait)
        checkpoints.save(2, state)
        assert checkpoints.saved == 1
        with pytest.raises(OSError, match="disk is full"):
            checkpoints.wait()
        assert checkpoints.saved == 1
        monkeypatch.undo()
        stack.callback(checkpoints.close)


def test_keeps_what_no_record_holds_yet(tmp_path, state):
    numbers = {"loss": [0.1, 1 / 3], "error": [0.5, 1.0], "depth": [3, 1]}
    with open_(tmp_path) as checkpoints:
        checkpoints.save(1, state, unrecorded=numbers)
        checkpoints.save(2, state)
        checkpoints.wait()
        assert checkpoints.unrecorded(1) == numbers
        assert checkpoints.unrecorded(2) == {}
