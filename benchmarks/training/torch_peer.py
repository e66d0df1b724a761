"""The same network, schemes and training step in PyTorch, as one would write them there, well.

Channels-last, data as tensors on the device, crop and flip of a whole batch in one gather, bfloat16
by autocast, `torch.compile` where asked for. It computes the function of `accordion_jax` with the
same parameters, which a test checks, with one difference: PyTorch keeps the *unbiased* variance of
a batch in batch norm's running statistics, Flax the biased one. (Momentum is the same: what is kept
of the old statistics is 0.9 in Flax, and what is taken of the new ones 0.1 in PyTorch.)

A skipped block gets no gradient (None, not zero), so `torch.optim.SGD` leaves its parameters and
momentum alone, as our step does.
"""

import contextlib
import functools
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from benchmarks import work
from benchmarks.work import Options, SkipMask


class Layer(nn.Sequential):
    """A 3x3 convolution with batch norm."""

    def __init__(self, inputs: int, outputs: int):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1))


class Block(nn.Module):
    """Two layers, and an identity shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.layer1, self.layer2 = Layer(channels, channels), Layer(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a tensor of the shape of x."""
        y = F.relu(self.layer1(x), inplace=True)
        return F.relu(self.layer2(y).add_(x), inplace=True)


class ResNet(nn.Module):
    """ResNet-(6n+2) of which any block can be skipped; see `accordion_jax.models.resnet`."""

    def __init__(
        self,
        num_classes: int,
        stage_sizes: Sequence[int],
        channels: Sequence[int] = (16, 32, 64),
        colours: int = 3,
        own_heads: bool = False,
    ):
        super().__init__()
        self.channels = tuple(channels)
        self.stem = Layer(colours, channels[0])
        self.stage_of = [stage for stage, size in enumerate(stage_sizes) for _ in range(size)]
        self.blocks = nn.ModuleList(Block(channels[stage]) for stage in self.stage_of)
        self.head = nn.Linear(channels[0 if own_heads else -1], num_classes)
        widths = [channels[stage] for stage in self.stage_of] if own_heads else []
        self.heads = nn.ModuleList(nn.Linear(width, num_classes) for width in widths)

    def forward(
        self, images: torch.Tensor, skip_mask: SkipMask, truncations: bool = False
    ) -> torch.Tensor:
        """Returns [batch, classes] logits of images [batch, 3, height, width].

        With `truncations` [kept blocks + 1, batch, classes], those after each kept block: first of
        the base alone.
        """
        x, present, last = F.relu(self.stem(images), inplace=True), 0, -1
        logits = [self._read_out(x, last)] if truncations else []
        for i, (block, stage) in enumerate(zip(self.blocks, self.stage_of, strict=True)):
            if skip_mask[i]:
                continue
            for entered in range(present + 1, stage + 1):  # halves the map, once a stage on the way
                x = F.avg_pool2d(x, 2)
                x = F.pad(x, (0, 0, 0, 0, 0, self.channels[entered] - x.shape[1]))
            x, present, last = block(x), stage, i
            if truncations:
                logits.append(self._read_out(x, last))
        return torch.stack(logits) if truncations else self._read_out(x, last)

    def _read_out(self, x: torch.Tensor, last: int) -> torch.Tensor:
        """Pooling again and again, then over the whole map, is one mean over the map."""
        pooled = x.float().mean((2, 3))
        head: Any = self.heads[last] if self.heads and last >= 0 else self.head
        return head(F.pad(pooled, (0, head.in_features - pooled.shape[1]))).float()

    def load_ours(self, variables: Mapping[str, Any]) -> None:
        """Takes over {"params": ..., "batch_stats": ...} of `accordion_jax.models.ResNet`."""
        with torch.no_grad():
            for tensor, collection, path, axes in self._correspondence():
                array = functools.reduce(operator.getitem, path, variables[collection])
                tensor.copy_(torch.tensor(np.transpose(np.asarray(array), axes)))

    def as_ours(self) -> dict[str, Any]:
        """Returns what `load_ours` takes, NumPy arrays: its inverse."""
        ours: dict[str, Any] = {"params": {}, "batch_stats": {}}
        for tensor, collection, path, axes in self._correspondence():
            array = tensor.detach().float().cpu().numpy()
            below = ours[collection]
            for name in path[:-1]:
                below = below.setdefault(name, {})
            below[path[-1]] = np.array(array.transpose(np.argsort(axes)), order="C")
        return ours

    def kernels(self) -> dict[str, list[torch.Tensor]]:
        """Returns the kernels of each of our units, by its name; convolutions' and the head's."""
        found: dict[str, list[torch.Tensor]] = {}
        for tensor, _, path, _ in self._correspondence():
            if path[-1] == "kernel":
                found.setdefault(path[0], []).append(tensor)
        return found

    def _correspondence(self) -> Iterator[tuple[torch.Tensor, str, tuple[str, ...], list[int]]]:
        """Each tensor, the collection and the path of our array, and its axes as they lie here."""
        layers: list[tuple[Any, str, str, str]] = [(self.stem, "stem", "conv", "norm")]
        stages = [f"stage{stage + 1}" for stage in self.stage_of]
        units = [
            f"{stage}_block{stages[:i].count(stage) + 1:02d}" for i, stage in enumerate(stages)
        ]
        blocks: Any = self.blocks
        for unit, block in zip(units, blocks, strict=True):
            for number, layer in enumerate((block.layer1, block.layer2), 1):
                layers.append((layer, unit, f"conv{number}", f"norm{number}"))
        for layer, unit, conv, norm in layers:
            yield layer[0].weight, "params", (unit, conv, "kernel"), [3, 2, 0, 1]
            yield layer[1].weight, "params", (unit, norm, "scale"), [0]
            yield layer[1].bias, "params", (unit, norm, "bias"), [0]
            yield layer[1].running_mean, "batch_stats", (unit, norm, "mean"), [0]
            yield layer[1].running_var, "batch_stats", (unit, norm, "var"), [0]
        heads: list[tuple[Any, tuple[str, ...]]] = [(self.head, ("head",))]
        heads += [(head, (units[i], "head")) for i, head in enumerate(self.heads)]
        for head, path in heads:
            yield head.weight, "params", (*path, "kernel"), [1, 0]
            yield head.bias, "params", (*path, "bias"), [0]


def crop_and_flip(
    padded: torch.Tensor,
    rows: torch.Tensor,
    offsets: torch.Tensor,
    flips: torch.Tensor,
    pad: int = work.PAD,
) -> torch.Tensor:
    """Returns crops of rows of a padded data set, some mirrored, in one gather.

    Args:
      padded: [examples, height + 2 pad, width + 2 pad, colours] uint8.
      rows: [batch] int64, which examples.
      offsets: [batch, 2] int64, corner of the crop.
      flips: [batch] bool.
      pad: pixels on every side.

    Returns:
      [batch, colours, height, width] uint8, channels-last.
    """
    height, width = padded.shape[1] - 2 * pad, padded.shape[2] - 2 * pad
    down = offsets[:, :1] + torch.arange(height, device=padded.device)
    across = torch.arange(width, device=padded.device).expand(len(rows), width)
    across = torch.where(flips[:, None], width - 1 - across, across) + offsets[:, 1:]
    crops = padded[rows[:, None, None], down[:, :, None], across[:, None, :]]
    return crops.permute(0, 3, 1, 2)


def computing_in(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Within it, PyTorch computes in this type: "float32" or "bfloat16"."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


class Peer:
    """The work of the benchmark, done by PyTorch."""

    def __init__(self, options: Options):
        """Makes the network and puts the data on the device."""
        torch.manual_seed(0)
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        images, labels = work.random_data(options.examples)
        self.padded = F.pad(torch.tensor(images, device=self.device), (0, 0, *(work.PAD,) * 4))
        self.labels = torch.tensor(labels, dtype=torch.int64, device=self.device)
        # Any, since the types are checked where PyTorch is not installed too.
        model: Any = ResNet(work.NUM_CLASSES, (options.depth_n,) * 3).to(self.device)
        self.model: Any = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, foreach=True
        )
        self.forward: Any = self.model
        if options.torch_compile != "off":
            mode = None if options.torch_compile == "default" else options.torch_compile
            # Every depth is a program of its own, as ours.
            torch._dynamo.config.recompile_limit = options.blocks + 2
            self.forward = torch.compile(self.model, mode=mode, dynamic=False)

    def step(self, skip_mask: SkipMask) -> torch.Tensor:
        """Takes one training step; returns the loss."""
        batch = self.options.batch_size
        rows = torch.randint(len(self.labels), (batch,), device=self.device)
        offsets = torch.randint(2 * work.PAD + 1, (batch, 2), device=self.device)
        flips = torch.rand(batch, device=self.device) < 0.5
        images = crop_and_flip(self.padded, rows, offsets, flips)
        return self.update(images, self.labels[rows], skip_mask)

    def update(
        self, images: torch.Tensor, labels: torch.Tensor, skip_mask: SkipMask
    ) -> torch.Tensor:
        """Takes one step on uint8 images; returns the loss."""
        self.model.train()
        with self._precision():
            loss = F.cross_entropy(self.forward(self._normalise(images), skip_mask), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train(self, skip_masks: Sequence[SkipMask]) -> float:
        """Takes a step of each skip mask; returns the seconds until all are done."""
        started = time.perf_counter()
        for last in [self.step(mask) for mask in skip_masks][-1:]:
            last.item()  # waits for the device
        return time.perf_counter() - started

    def sweep(self) -> float:
        """Measures every truncation in one pass; returns the seconds."""
        self.model.eval()
        options, pad, (height, width, _) = self.options, work.PAD, work.IMAGE_SHAPE
        started = time.perf_counter()
        with torch.inference_mode(), self._precision():
            wrong = torch.zeros(options.blocks + 1, device=self.device)
            for first in range(0, options.sweep_examples, options.sweep_batch_size):
                rows = slice(first, min(first + options.sweep_batch_size, options.sweep_examples))
                images = self.padded[rows, pad : pad + height, pad : pad + width]
                x = self._normalise(images.permute(0, 3, 1, 2))
                logits = self.model(x, options.full, truncations=True)
                wrong += (logits.argmax(-1) != self.labels[rows]).sum(1)
            wrong.cpu()
        return time.perf_counter() - started

    def peak_bytes(self) -> int:
        """Returns the most memory used: of the GPU, else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return work.peak_process_bytes()

    def hardware(self) -> str:
        """Returns what it runs on, and how many threads of it."""
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        return f"{gpu}, {torch.get_num_threads()} threads"

    def _precision(self) -> contextlib.AbstractContextManager:
        return computing_in(self.options.precision, self.device)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels to about zero mean and unit variance."""
        return (images.float() / 255 - work.MEAN[0]) / work.STD[0]
