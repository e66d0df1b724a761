"""Trains a run with PyTorch in place of JAX, from the same config to the same folder.

    python -m benchmarks.training.torch_train --config=FILE --run=FOLDER --precision=bfloat16

Same network, initial weights, schedule, update, augmentation, losses, zeros and rounding as
`accordion_jax.main`; the order of the images and what is drawn for each differ. The end is a
checkpoint of the run: `accordion_jax.main` with the same config, and that folder as --workdir, then
measures it, and everything else reads it as any other. It is there for two reasons: a recipe that
gives the same errors in two frameworks is no accident of one; and PyTorch computes in bfloat16 on
CPUs that can, two to three times as fast as XLA does in float32, which is what makes a rival of 50
epochs possible without an accelerator.

For networks of the ResNet family with ladders of prefixes (or the full depth alone), SGD, one
process. Wants PyTorch beside the extra ``train``. It goes on where it stopped, from the last whole
epoch.

Time on two CPU cores: 51 minutes for 50 epochs of ResNet-20 in bfloat16, on a processor with it.
"""

import contextlib
import importlib.util
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from accordion_jax import training
from accordion_jax.delivery.bundle.variables import read_model
from accordion_jax.runs.folder import CHECKPOINTS, held
from accordion_jax.system import command
from accordion_jax.system.progress import progress
from accordion_jax.training.checkpoints import Checkpoints
from benchmarks.options import PRECISION, RUN, run

_CONFIG = config_flags.DEFINE_config_file("config", None, "As of accordion_jax.main.")
_COMPILE = flags.DEFINE_bool("compiled", True, "Whether torch.compile compiles the network.")

# Of the workdir: how far PyTorch has come.
_KEPT = "torch_train.pt"


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains a run to its end, from the last whole epoch where there is one.

    Args:
      config: of the run.
      workdir: of the run; its last checkpoint is what `accordion_jax.main` would go on from.

    Raises:
      ValueError: the config has what this command does not train, or another run is there.
      RuntimeError: the loss is not finite.
    """
    from benchmarks.training import torch_trainer  # where PyTorch is installed

    experiment = training.make_experiment(config, read_bundle=read_model)
    torch_trainer.check(experiment)
    training.claim_workdir(workdir, experiment, write=True)
    with contextlib.closing(Checkpoints(workdir / CHECKPOINTS)) as checkpoints:
        if checkpoints.latest is not None:
            raise ValueError(f"{workdir} has a checkpoint already; give another --run")
        trainer = torch_trainer.Trainer(experiment, PRECISION.value, compiled=_COMPILE.value)
        kept = workdir / _KEPT
        done = trainer.restore(kept) if kept.exists() else 0
        total, per_epoch = experiment.total_steps, experiment.steps_per_epoch
        size = experiment.config.train.batch_size
        with progress(config.name, total, done * per_epoch, scale=size) as bar:
            for epoch in range(done, -(-total // per_epoch)):
                for step, loss in enumerate(trainer.epoch(epoch), epoch * per_epoch + 1):
                    if step % 50 == 0 or step == total:
                        if not loss.isfinite():
                            raise RuntimeError(
                                f"the loss is {loss.item()} at step {step}; lower the learning rate"
                            )
                        bar.update(step, epoch=f"{step / per_epoch:.1f}", loss=f"{loss:.3f}")
                trainer.save(kept, epoch + 1)
        checkpoints.save(total, trainer.state())
        checkpoints.wait()
    kept.unlink(missing_ok=True)  # a run of no steps has none


def main() -> None:
    """Trains."""
    if _CONFIG.value is None or not RUN.value:
        raise ValueError("give --config=FILE and --run=FOLDER")
    if importlib.util.find_spec("torch") is None:
        raise RuntimeError("PyTorch is not installed; pip install torch")
    command.show_log()
    workdir = pathlib.Path(RUN.value)
    with held([workdir]):
        train(_CONFIG.value, workdir)
    print(f"trained; accordion_jax.main with the same config and --workdir={workdir} measures it")


if __name__ == "__main__":
    run(main)
