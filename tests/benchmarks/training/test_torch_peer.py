"""The benchmark's PyTorch side computes what ours does, so that the comparison is one."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install torch")

from accordion_jax import data  # noqa: E402
from accordion_jax.tasks.augmentation import apply_augmentation  # noqa: E402
from benchmarks.ours import Ours  # noqa: E402
from benchmarks.training import torch_peer  # noqa: E402
from benchmarks.work import NUM_CLASSES, Options, random_data  # noqa: E402
from tests.benchmarks.tables import rows_of  # noqa: E402

OPTIONS = Options(depth_n=1, batch_size=8, examples=64, sweep_examples=16, sweep_batch_size=8)


@pytest.fixture(scope="module")
def ours():
    # Several devices that act as one, as PyTorch's does.
    one = {"data.pad": 0, "data.flip": False, "model.cross_replica_batch_norm": True}
    return Ours(OPTIONS, one)


@pytest.fixture
def peer(ours):
    side = torch_peer.Peer(OPTIONS)
    side.model.load_ours(data.unreplicate(ours.variables))
    return side


def parameters(model):
    """Copies of everything that the network holds."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def test_every_truncation_has_the_same_logits(ours, peer):
    images = ours.experiment.train.inputs[:4]
    variables = data.unreplicate(ours.variables)
    masks = ours.experiment.ladder.skip_masks
    wanted = ours.experiment.model.apply(
        variables, ours.experiment.task.prepare(images), skip_masks=masks, method="truncations"
    )
    peer.model.eval()
    x = peer._normalise(torch.tensor(images).permute(0, 3, 1, 2))
    with torch.inference_mode():
        found = peer.model(x, masks[-1], truncations=True)
        each = torch.stack([peer.model(x, mask) for mask in masks])
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(each, found, rtol=1e-6, atol=1e-6)


def test_a_step_moves_both_alike_and_no_skipped_block(ours, peer):
    before = parameters(peer.model)
    for step, depth in enumerate((2, 3, 2)):  # the third has momentum, and skips a moved block
        moved = parameters(peer.model)
        batch = slice(step * 8, step * 8 + 8)  # our side takes the examples in their order
        images = torch.tensor(ours.experiment.train.inputs[batch]).permute(0, 3, 1, 2)
        labels = torch.tensor(ours.experiment.train.targets[batch], dtype=torch.int64)
        peer.update(images.contiguous(), labels, OPTIONS.mask(depth))
        ours.train([OPTIONS.mask(depth)])
        for name, value in parameters(peer.model).items():
            if name.startswith("blocks.2") and depth == 2:
                np.testing.assert_array_equal(value, moved[name], err_msg=name)
    wanted = torch_peer.ResNet(NUM_CLASSES, (1, 1, 1))
    wanted.load_ours(data.unreplicate(ours.variables))
    wanted, found = parameters(wanted), parameters(peer.model)
    moved = 0
    for name in wanted.keys() - {name for name in wanted if "num_batches" in name}:
        # PyTorch's running variance is the unbiased one, of 8 * 8 * 8 numbers at the least.
        tolerance = 3e-3 if name.endswith("running_var") else 2e-4
        np.testing.assert_allclose(
            found[name], wanted[name], rtol=tolerance, atol=tolerance, err_msg=name
        )
        moved += np.abs(found[name] - before[name]).max() > 5 * tolerance
    assert moved > len(wanted) / 2


def test_crops_and_flips_are_ours():
    images, _ = random_data(6)
    offsets = np.array([[0, 0], [8, 8], [4, 4], [0, 8], [3, 1], [5, 7]])
    flips = np.array([False, True, True, False, True, False])
    padded = torch.tensor(np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0))))
    found = torch_peer.crop_and_flip(
        padded, torch.arange(6), torch.tensor(offsets), torch.tensor(flips)
    )
    wanted = apply_augmentation(
        jnp.asarray(images), jnp.asarray(offsets, jnp.int32), jnp.asarray(flips), 4
    )
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1), np.asarray(wanted))


@pytest.mark.slow
def test_the_command_prints_and_writes_its_ratios(run_command, tmp_path):
    sizes = ("--depth_n=1", "--batch_size=4", "--steps=1", "--repeats=2", "--sweep_examples=8")
    path = tmp_path / "speed.json"
    finished = run_command("benchmarks.training.speed", *sizes, f"--json={path}")
    assert finished.returncode == 0, finished.stderr
    printed = {row["images a second"]: row for row in rows_of(finished.stdout) if "ratio" in row}
    assert "training, all 3 blocks" in printed
    rates, _ = json.loads(path.read_text())["tables"]
    assert len(rates["rows"]) == len(printed) == 4
    for name, mine, theirs, ratios in rates["rows"]:
        assert len(ratios) == 2
        assert min(ratios) < 1.01 * mine / theirs
        assert max(ratios) > 0.99 * mine / theirs
        assert f"({min(ratios):.2f} to {max(ratios):.2f})" in printed[name]["ratio"]
    assert f"torch {torch.__version__}" in finished.stdout
