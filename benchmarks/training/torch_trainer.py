"""Training steps of a run in PyTorch: what `benchmarks.training.torch_train` runs.

The function, the losses and the update are those of `accordion_jax.training`, which tests check.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from jax import numpy as jnp
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from accordion_jax import training
from accordion_jax.system.files import write_whole
from accordion_jax.training.objective import Draw
from accordion_jax.training.rounding import MOST_ROUNDED, SCALES_TRIED, levels_of
from accordion_jax.training.state import TrainState
from accordion_jax.training.within import BORDER, TRIED, ends
from benchmarks.training.torch_peer import ResNet, computing_in, crop_and_flip
from benchmarks.work import SkipMask


def check(experiment: training.Experiment) -> None:
    """Refuses what this command does not train as `accordion_jax.main` would.

    Raises:
      ValueError: names the field.
    """
    config, drawn = experiment.config, experiment.draw(0)
    refused = {
        f"config.data.name={config.data.name!r}": experiment.task.kind != "images",
        f"config.model.family={config.model.family!r}": config.model.family != "resnet",
        f"config.optimizer.name={config.optimizer.name!r}": config.optimizer.name != "sgd",
        f"config.objective.name={config.objective.name!r}": drawn.adaptation is not None,
        "config.objective.balanced=True": drawn.balanced,
        f"config.scheme={config.scheme!r}": not all(map(_is_prefix, drawn.skip_masks)),
    }
    for field, wrong in refused.items():
        if wrong:
            raise ValueError(
                f"{field} is not trained here: the peer has images, ResNets that skip blocks from "
                "the end on, SGD, and losses of fixed weights; use accordion_jax.main"
            )


def _is_prefix(mask: SkipMask) -> bool:
    """Whether it keeps the first blocks, however many."""
    return list(mask) == sorted(mask)


def loss_of(
    drawn: Draw,
    outputs: Sequence[torch.Tensor],
    labels: torch.Tensor,
    soft: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the loss of a draw, as `training.loss.weighted_loss`.

    Args:
      drawn: what the step works on.
      outputs: [batch, classes] logits of each of its masks.
      labels: [batch] int64.
      soft: [batch, classes], answers of the teacher, where that is another network.
    """
    losses = [F.cross_entropy(each, labels) for each in outputs]
    if drawn.teacher is not None:
        soft = outputs[drawn.teacher].detach()
    if soft is not None:
        share, heat = drawn.distillation, drawn.temperature
        soft = F.log_softmax(soft / heat, dim=-1)
        for i in drawn.taught:
            cool = F.log_softmax(outputs[i] / heat, dim=-1)
            apart = F.kl_div(cool, soft, reduction="batchmean", log_target=True)
            losses[i] = (1 - share) * losses[i] + share * heat**2 * apart
    weighted = (weight * loss for weight, loss in zip(drawn.weights, losses, strict=True))
    return sum(weighted, start=torch.zeros((), device=labels.device))


def rounded(kernel: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns a kernel in integers of so many bits, as `training.rounding.rounded`.

    Args:
      kernel: [channels, ...].
      bits: 1 to 8.
    """
    weights = kernel.flatten(1)
    levels = levels_of(bits)
    half = (levels - 1) / 2
    largest = weights.abs().amax(1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1.0) / half
    best, least = weights, torch.full_like(largest, torch.inf)
    for factor in SCALES_TRIED:
        scale = factor * unit
        here = ((weights / scale + half).round().clamp(0, levels - 1) - half) * scale
        error = (here - weights).square().sum(1, keepdim=True)
        best = torch.where(error < least, here, best)
        least = torch.minimum(error, least)
    return best.view_as(kernel)


class Cells:
    """Where the numbers of a tensor may go, as `training.within`."""

    def __init__(self, center: torch.Tensor, spacing: torch.Tensor, held: int):
        """Takes over what `training.within.Within` says of a tensor.

        Args:
          center: [channels, ...], or of one axis.
          spacing: of the same shape; zero or infinite where there are no levels.
          held: bits of the levels.
        """
        center, spacing = center.detach(), spacing.detach()
        self.held = held
        self.least, self.most = (
            torch.tensor(np.asarray(end), device=center.device)
            for end in ends(jnp.asarray(center.cpu()), jnp.asarray(spacing.cpu()), held)
        )
        self.refined = bool((spacing > 0).all() and spacing.isfinite().all())
        self.unit = spacing.flatten(1)[:, :1] if self.refined else spacing
        self.level = (center.flatten(1) / self.unit) if self.refined else center

    def rounded(self, kernel: torch.Tensor, bits: int) -> torch.Tensor:
        """Returns a kernel in more bits, as `training.within.rounded_within`."""
        if not self.refined:
            return kernel
        at = kernel.flatten(1) / self.unit
        half, outermost = ((levels_of(each) - 1) / 2 for each in (bits, self.held))
        low, high = self.level < 0.25 - outermost, self.level > outermost - 0.25
        best, off = at, torch.full_like(self.unit, torch.inf)
        for share in TRIED:
            scale = share * 2.0 ** (self.held - bits)
            least = ((self.level - 0.5) / scale + (half + BORDER)).ceil_().clamp_(min=0)
            most = ((self.level + 0.5) / scale + (half - BORDER)).floor_().clamp_(max=2 * half)
            least.masked_fill_(low, 0)
            most.masked_fill_(high, 2 * half)
            here = (at / scale + half).round_().clamp_(least, most).sub_(half).mul_(scale)
            error = (here - at).square_().sum(1, keepdim=True)
            error.masked_fill_((least > most).any(1, keepdim=True), torch.inf)
            best = torch.where(error < off, here, best)
            off = torch.minimum(error, off)
        return (best * self.unit).view_as(kernel)


class Trainer:
    """A run's network and optimizer in PyTorch, on this machine's processor or GPU."""

    def __init__(self, experiment: training.Experiment, precision: str, *, compiled: bool):
        """Takes over what the run begins with.

        Args:
          experiment: what to train.
          precision: "float32" or "bfloat16", of the computation; parameters are float32.
          compiled: whether torch.compile compiles the network.
        """
        self.experiment, self.begun = experiment, jax.device_get(experiment.init())
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision
        task: Any = experiment.task  # `check` has seen that it is of images
        self.model = self._network(experiment.model, self.begun.variables)
        self.forward: Any = torch.compile(self.model) if compiled else self.model
        teacher = experiment.teacher
        self.teacher: Any = None
        if teacher is not None:
            self.teacher = self._network(teacher.model, teacher.variables).eval()
        fields = experiment.config.optimizer
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            momentum=fields.momentum,
            nesterov=fields.nesterov,
            weight_decay=fields.weight_decay,
        )
        self.kernels = self.model.kernels()
        self.zeros = [
            (kernel, kernel == 0)
            for unit, kernels in self.kernels.items()
            for kernel in kernels
            if unit in experiment.model.block_names and experiment.config.train.sparsity
        ]
        self.within: list[tuple[torch.Tensor, Cells]] = []
        if found := experiment.within:
            trees = (
                self._network(experiment.model, {**self.begun.variables, "params": tree})
                for tree in found.cells.values()
            )
            every = (network.parameters() for network in (self.model, *trees))
            self.within = [
                (each, Cells(center, spacing, found.bits))
                for each, center, spacing in zip(*every, strict=True)
            ]
        self.pad, self.flip, train = task.pad, task.flip, experiment.train
        images = torch.tensor(np.asarray(train.inputs))
        self.padded = F.pad(images, (0, 0, *(self.pad,) * 4)).to(self.device)
        self.labels = torch.tensor(np.asarray(train.targets), dtype=torch.int64).to(self.device)
        self.mean, self.std = (
            torch.tensor(each).reshape(-1, 1, 1).to(self.device) for each in (task.mean, task.std)
        )

    def epoch(self, number: int) -> Iterator[torch.Tensor]:
        """Takes the steps of an epoch; yields the loss of each."""
        batch, per_epoch = self.experiment.config.train.batch_size, self.experiment.steps_per_epoch
        generator = torch.Generator().manual_seed(self.experiment.config.seed * 100_003 + number)
        order = torch.randperm(len(self.labels), generator=generator)
        first = number * per_epoch
        for step in range(first, min(first + per_epoch, self.experiment.total_steps)):
            rows = order[(step - first) * batch :][:batch]
            offsets = torch.randint(2 * self.pad + 1, (batch, 2), generator=generator)
            flips = (torch.rand(batch, generator=generator) < 0.5) & self.flip
            rows, offsets, flips = (each.to(self.device) for each in (rows, offsets, flips))
            images = crop_and_flip(self.padded, rows, offsets, flips, self.pad)
            bits = self.experiment.config.train.bits
            which = torch.randint(max(1, len(bits)), (len(self.kernels),), generator=generator)
            drawn = [bits[i] for i in which] if bits else [32] * len(which)
            yield self.update(images, self.labels[rows], step, drawn)

    def update(
        self, images: torch.Tensor, labels: torch.Tensor, step: int, bits: Sequence[int]
    ) -> torch.Tensor:
        """Takes one step; returns the loss.

        Args:
          images: [batch, colours, height, width] uint8.
          labels: [batch] int64.
          step: taken so far.
          bits: that each unit's kernels have in this step; above 8 they stay as they are.
        """
        self.model.train()
        drawn = self.experiment.draw(step)
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.experiment.learning_rate(np.float32(step)))
        x = (images.float() / 255 - self.mean) / self.std
        soft = None
        if self.teacher is not None:
            with torch.no_grad(), computing_in(self.precision, self.device):
                soft = self.teacher(x, (False,) * len(self.teacher.blocks)).float()
        with self._rounded(bits):
            with computing_in(self.precision, self.device):
                outputs = self._outputs(x, drawn)
            loss = loss_of(drawn, outputs, labels, soft)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for kernel, zero in self.zeros:
                kernel.masked_fill_(zero, 0)
            for each, cells in self.within:
                each.clamp_(cells.least, cells.most)
        return loss.detach()

    def state(self) -> TrainState:
        """Returns the run's state at its end, NumPy arrays; its momentum is zero."""
        variables = self.model.as_ours()
        return self.begun._replace(
            step=np.int32(self.experiment.total_steps),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
        )

    def save(self, path: pathlib.Path, epochs: int) -> None:
        """Writes where training stands."""
        stored = io.BytesIO()
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({"epochs": epochs, **parts}, stored)
        write_whole(path, stored.getvalue())

    def restore(self, path: pathlib.Path) -> int:
        """Goes on from what `save` wrote; returns how many epochs that had."""
        kept = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        return kept["epochs"]

    def _outputs(self, x: torch.Tensor, drawn: Draw) -> list[torch.Tensor]:
        """Logits of each of its masks, in one pass that reads out nothing else.

        A depth that is read out for nothing has a gradient of zeros, which costs a quarter of a
        step of all depths.
        """
        if len(drawn.skip_masks) == 1:
            return [self.forward(x, drawn.skip_mask)]
        logits = self.forward(x, drawn.skip_mask, truncations=True)
        return [logits[mask.count(False)] for mask in drawn.skip_masks]

    def _network(self, network: Any, variables: Mapping[str, Any]) -> Any:
        """A network of ours with its variables, on the device."""
        colours = self.experiment.task.inputs.shape[-1]
        sizes = network.num_classes, network.stage_sizes, network.channels
        made: Any = ResNet(*sizes, colours, network.own_heads)
        made.load_ours(variables)
        return made.to(self.device, memory_format=torch.channels_last)

    @contextlib.contextmanager
    def _rounded(self, bits: Sequence[int]) -> Iterator[None]:
        """Computes with rounded kernels; the gradient by these moves the kernels themselves."""
        whole = [
            (kernel, kernel.detach().clone(), each)
            for each, kernels in zip(bits, self.kernels.values(), strict=True)
            for kernel in kernels
            if each <= MOST_ROUNDED
        ]
        cells = {id(each): cells for each, cells in self.within}
        with torch.no_grad():
            for kernel, exact, each in whole:
                to = cells[id(kernel)].rounded if cells else rounded
                kernel.copy_(to(exact, each))
        yield
        with torch.no_grad():
            for kernel, exact, _ in whole:
                kernel.copy_(exact)
