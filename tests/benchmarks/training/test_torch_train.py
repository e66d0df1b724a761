"""PyTorch trains a run as ours does, and leaves what the rest of the project reads."""

import contextlib
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install torch")

from accordion_jax import training  # noqa: E402
from accordion_jax.runs.config import default_config  # noqa: E402
from accordion_jax.runs.folder import CHECKPOINTS  # noqa: E402
from accordion_jax.training import rounding  # noqa: E402
from accordion_jax.training.checkpoints import Checkpoints  # noqa: E402
from accordion_jax.training.loss import weighted_loss  # noqa: E402
from accordion_jax.training.pruning import keep_zeros  # noqa: E402
from accordion_jax.training.rounding import round_units  # noqa: E402
from accordion_jax.training.within import ends, rounded_within, stay_within  # noqa: E402
from benchmarks.training import torch_trainer  # noqa: E402
from benchmarks.training.torch_peer import ResNet  # noqa: E402
from tests.commands import ROOT, command_environment  # noqa: E402
from tests.training.test_within import bundle_of  # noqa: E402


def experiment_of(bundled=None, **fields):
    config = default_config()
    config.update_from_flattened_dict(
        {
            "data.name": "digits",
            "model.arguments.stage_sizes": (1, 1, 1),
            "train.batch_size": 64,
            "train.epochs": 3.0,
            "objective.name": "expected",
            "optimizer.learning_rate": 0.05,
        }
        | fields
    )
    return training.make_experiment(config, read_bundle=lambda _: bundled)


def trainer_of(experiment):
    return torch_trainer.Trainer(experiment, "float32", compiled=False)


def leave_run(workdir):
    """A run of no steps."""
    experiment = experiment_of()
    training.claim_workdir(workdir, experiment, write=True)
    with contextlib.closing(Checkpoints(workdir / CHECKPOINTS)) as checkpoints:
        checkpoints.save(0, jax.device_get(experiment.init()))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
    )


def train(workdir, *more):
    return command(
        *("benchmarks.training.torch_train", "--config=configs/quickstart.py"),
        *(f"--run={workdir}", "--nocompiled"),
        *("--config.objective.name=expected", "--config.train.epochs=2", *more),
    )


@pytest.mark.parametrize("own_heads", [False, True])
def test_weights_come_back_as_they_were_and_answer_alike(own_heads):
    experiment = experiment_of(**{"model.arguments.own_heads": own_heads})
    variables = jax.device_get(experiment.init().variables)
    model = ResNet(10, (1, 1, 1), colours=1, own_heads=own_heads)
    model.load_ours(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, model.as_ours())
    x = experiment.task.prepare(experiment.train.inputs[:4])
    masks = experiment.ladder.skip_masks
    wanted = experiment.model.apply(variables, x, skip_masks=masks, method="truncations")
    model.eval()
    with torch.inference_mode():
        found = model(torch.tensor(x).permute(0, 3, 1, 2), masks[-1], truncations=True)
    np.testing.assert_allclose(found[[m.count(False) for m in masks]], wanted, atol=1e-4)


def test_the_loss_of_a_distilled_draw_is_ours():
    experiment = experiment_of(**{"objective.distillation": 0.3, "objective.temperature": 3.0})
    drawn, rng = experiment.draw(0), np.random.default_rng(0)
    assert drawn.taught
    logits = rng.normal(size=(len(drawn.skip_masks), 7, 10)).astype(np.float32)
    labels = rng.integers(0, 10, 7).astype(np.int32)
    wanted, _ = weighted_loss(drawn, experiment.task, jnp.asarray(logits), labels)
    found = torch_trainer.loss_of(drawn, list(torch.tensor(logits)), torch.tensor(labels).long())
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_another_network_teaches_as_it_does_ours(tmp_path):
    leave_run(tmp_path)
    experiment = experiment_of(
        **{
            "train.teacher": str(tmp_path),
            "objective.distillation": 0.9,
            "objective.temperature": 4.0,
            "seed": 1,
        }
    )
    trainer, drawn = trainer_of(experiment), experiment.draw(0)
    images, labels = experiment.train.inputs[:64], experiment.train.targets[:64]
    x = experiment.task.prepare(images)
    outputs, _ = experiment.model.apply(
        jax.device_get(experiment.init()).variables,
        x,
        skip_masks=drawn.skip_masks,
        train=True,
        mutable=["batch_stats"],
        method="truncations",
    )
    soft = experiment.teacher.answers(experiment.teacher.variables, x)
    wanted, _ = weighted_loss(drawn, experiment.task, outputs, labels, soft=soft)
    found = trainer.update(
        torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels).long(), 0, (32,) * 5
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_kernels_are_rounded_as_ours(bits):
    kernel = np.random.default_rng(bits).normal(size=(3, 3, 4, 5)).astype(np.float32)
    kernel[..., 2] = 0
    found = torch_trainer.rounded(torch.tensor(kernel.transpose(3, 2, 0, 1)), bits)
    wanted = rounding.rounded(jnp.asarray(kernel), bits)
    np.testing.assert_allclose(found.numpy().transpose(2, 3, 1, 0), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", ["coml", "resnet"])
@pytest.mark.parametrize("bits", [(), (4,)])
def test_a_step_moves_the_weights_as_ours(bits, scheme, tmp_path):
    leave_run(tmp_path)
    fields = {"scheme": scheme, "objective.name": "drawn_depth"} if scheme == "resnet" else {}
    experiment = experiment_of(
        **{"train.start_from": str(tmp_path), "train.sparsity": 0.5, "train.bits": bits, **fields}
    )
    trainer, drawn = trainer_of(experiment), experiment.draw(0)
    images, labels = experiment.train.inputs[:64], experiment.train.targets[:64]
    begun = jax.device_get(experiment.init())

    def loss(params):
        outputs, _ = experiment.model.apply(
            {
                "params": rounding.round_units(params, bits or (32,), jax.random.key(0)),
                "batch_stats": begun.batch_stats,
            },
            experiment.task.prepare(images),
            skip_masks=drawn.skip_masks,
            train=True,
            mutable=["batch_stats"],
            method="truncations",
        )
        return weighted_loss(drawn, experiment.task, outputs, labels)[0]

    def descended(unit, old, gradients):
        direction, _ = experiment.optimizer.update(gradients, begun.opt_state[unit], old)
        new = jax.tree.map(lambda p, d: p - experiment.learning_rate(0) * d, old, direction)
        return keep_zeros(old, new) if unit in experiment.model.block_names else new

    gradients = jax.grad(loss)(begun.params)
    wanted = {unit: descended(unit, old, gradients[unit]) for unit, old in begun.params.items()}
    trainer.update(
        torch.tensor(images).permute(0, 3, 1, 2),
        torch.tensor(labels).long(),
        0,
        (bits or (32,)) * len(trainer.kernels),
    )
    found = trainer.state().params
    moved = jax.tree.map(lambda old, new: np.abs(new - old).max(), begun.params, found)
    assert min(jax.tree.leaves(moved)) > 1e-6
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-5),
        wanted,
        found,
    )


@pytest.fixture(scope="module")
def bundled():
    """What a reader returns of a bundle of a fresh network."""
    experiment = experiment_of()
    return bundle_of(experiment.model, jax.device_get(experiment.init().variables), [3, 8])


def test_a_step_stays_within_the_cells_of_ours(bundled):
    fields = {"train.start_from": "somewhere", "train.within_bits": 3}
    experiment = experiment_of(bundled, **fields, **{"optimizer.learning_rate": 5.0})
    trainer, cells = trainer_of(experiment), experiment.within.cells
    for _ in trainer.epoch(0):
        pass
    params = trainer.state().params
    within = stay_within(params, **cells, bits=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, within)
    np.testing.assert_array_equal(params["head"]["kernel"], cells["center"]["head"]["kernel"])
    stem = (tree["stem"]["conv"]["kernel"] for tree in (params, *cells.values()))
    weights, *cell = (np.asarray(each) for each in stem)
    assert 0.02 < np.mean(np.isclose(weights, ends(*cell, 3)[1], rtol=1e-6)) < 0.6


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_kernels_are_rounded_within_cells_as_ours(bundled, bits):
    fields = {"train.start_from": "somewhere", "train.within_bits": 3, "train.bits": (bits,)}
    experiment = experiment_of(bundled, **fields)
    trainer = trainer_of(experiment)
    # The cells of ours, and somewhere in them.
    rng = np.random.default_rng(0)
    for kernel, cells in trainer.within:
        with torch.no_grad():
            kernel.add_(torch.tensor(rng.normal(0, 0.02, kernel.shape), dtype=torch.float32))
            kernel.clamp_(cells.least, cells.most)
    params = trainer.state().params
    wanted = round_units(
        params,
        (bits,),
        jax.random.key(0),
        tuple(experiment.within.cells.values()),
        functools.partial(rounded_within, held=3),
    )
    with trainer._rounded([bits] * len(trainer.kernels)):
        found = trainer.state().params
    after = trainer.state().params
    jax.tree.map(np.testing.assert_array_equal, after, params)

    def check(ours, theirs):
        # What lies in the middle between two levels may go to either.
        assert np.isclose(theirs, ours, rtol=1e-4, atol=1e-6).mean() > 0.999

    jax.tree.map(check, wanted, found)
    moved = (
        wanted["stage1_block01"]["conv1"]["kernel"] != params["stage1_block01"]["conv1"]["kernel"]
    )
    assert np.mean(moved) > 0.9


def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(tmp_path):
    experiment, kept = experiment_of(**{"train.bits": (4, 32)}), tmp_path / "kept"
    whole = trainer_of(experiment)
    for epoch in range(3):
        list(whole.epoch(epoch))
        if epoch == 1:
            whole.save(kept, 2)
    later = trainer_of(experiment)
    assert later.restore(kept) == 2
    list(later.epoch(2))
    jax.tree.map(np.testing.assert_array_equal, whole.state(), later.state())


@pytest.mark.slow
def test_the_rest_of_the_project_reads_the_run_and_another_begins_with_its_bundle(tmp_path):
    first, later = tmp_path / "first", tmp_path / "later"
    done = train(first)
    assert done.returncode == 0, done.stderr
    run = training.load_run(first)
    assert run.step == 2 * (1437 // 64)
    swept = command(
        *("accordion_jax.main", "--config=configs/quickstart.py", f"--workdir={first}"),
        *("--config.objective.name=expected", "--config.train.epochs=2"),
    )
    assert swept.returncode == 0, swept.stderr
    assert (first / "lookup_table.json").exists()
    again = train(first)
    assert again.returncode == 1
    assert "has a checkpoint already" in again.stderr
    cut = command("accordion_jax.bundle", f"--workdir={first}", f"--out={tmp_path}", "--bits=32")
    assert cut.returncode == 0, cut.stderr
    (manifest,) = tmp_path.glob("*/manifest.json")
    taught = train(
        later,
        *(f"--config.train.{field}={manifest.parent}" for field in ("start_from", "teacher")),
        *("--config.objective.distillation=0.5", "--config.optimizer.warmup_epochs=0"),
    )
    assert taught.returncode == 0, taught.stderr
    assert f"begins with the weights of {manifest.parent}" in taught.stderr
    assert f"learns from the answers of {manifest.parent}" in taught.stderr
    moved = training.load_run(later).variables["params"]["stem"]["conv"]["kernel"]
    assert np.abs(moved - run.variables["params"]["stem"]["conv"]["kernel"]).max() > 0


@pytest.mark.slow
def test_a_run_of_no_steps_is_left_as_it_began_and_not_begun_again(tmp_path):
    no_steps = ("--config.train.epochs=0", "--config.optimizer.warmup_epochs=0")
    done = train(tmp_path, *no_steps)
    assert done.returncode == 0, done.stderr
    assert training.load_run(tmp_path).step == 0
    again = train(tmp_path, *no_steps)
    assert again.returncode == 1
    assert "has a checkpoint already" in again.stderr


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"optimizer.name": "adamw"}, "config.optimizer.name='adamw'"),
        ({"objective.name": "minimax"}, "config.objective.name='minimax'"),
        ({"objective.balanced": True}, "config.objective.balanced=True"),
        (
            {"scheme": "blockcoml", "model.arguments.stage_sizes": (2, 2, 2)},
            "config.scheme='blockcoml'",
        ),
    ],
)
def test_what_it_would_train_otherwise_is_refused(fields, named):
    with pytest.raises(ValueError, match="is not trained here") as refused:
        torch_trainer.check(experiment_of(**fields))
    assert named in str(refused.value)
