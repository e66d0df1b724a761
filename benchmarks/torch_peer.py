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
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from benchmarks.work import IMAGE_SHAPE, NUM_CLASSES, Options, random_data

SkipMask = tuple[bool, ...]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and an identity shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a tensor of the shape of x."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)).add_(x), inplace=True)


class ResNet(nn.Module):
    """ResNet-(6n+2) of which any block can be skipped; see `accordion_jax.models.resnet`."""

    def __init__(
        self, num_classes: int, stage_sizes: Sequence[int], channels: Sequence[int] = (16, 32, 64)
    ):
        super().__init__()
        self.stage_sizes, self.channels = tuple(stage_sizes), tuple(channels)
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0], eps=1e-5, momentum=0.1)
        self.stage_of = [stage for stage, size in enumerate(stage_sizes) for _ in range(size)]
        self.blocks = nn.ModuleList(Block(channels[stage]) for stage in self.stage_of)
        self.head = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor, skip_mask: SkipMask) -> torch.Tensor:
        """Returns [batch, classes] logits of images [batch, 3, height, width]."""
        x, present = self._begin(images), 0
        for block, stage, skip in zip(self.blocks, self.stage_of, skip_mask, strict=True):
            if not skip:
                x, present = self._to_stage(x, present, stage), stage
                x = block(x)
        return self._read_out(x)

    def truncations(self, images: torch.Tensor) -> torch.Tensor:
        """Returns [blocks + 1, batch, classes]: the logits of every prefix of the blocks."""
        x, present = self._begin(images), 0
        logits = [self._read_out(x)]
        for block, stage in zip(self.blocks, self.stage_of, strict=True):
            x, present = self._to_stage(x, present, stage), stage
            x = block(x)
            logits.append(self._read_out(x))
        return torch.stack(logits)

    def _begin(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.stem_norm(self.stem(images)), inplace=True)

    def _to_stage(self, x: torch.Tensor, present: int, stage: int) -> torch.Tensor:
        """Halves the map and pads the channels with zeros, once a stage on the way."""
        for each in range(present + 1, stage + 1):
            x = F.avg_pool2d(x, 2)
            x = F.pad(x, (0, 0, 0, 0, 0, self.channels[each] - x.shape[1]))
        return x

    def _read_out(self, x: torch.Tensor) -> torch.Tensor:
        """Pooling again and again, then over the whole map, is one mean over the map."""
        pooled = x.float().mean((2, 3))
        return self.head(F.pad(pooled, (0, self.channels[-1] - pooled.shape[1]))).float()

    def load_ours(self, variables: Mapping[str, Any]) -> None:
        """Takes over parameters and running statistics of `accordion_jax.models.ResNet`.

        Args:
          variables: {"params": ..., "batch_stats": ...} of NumPy arrays.
        """
        params, stats = variables["params"], variables["batch_stats"]
        pairs: list[tuple[Any, Any]] = [(params["stem"]["conv"], self.stem)]
        norms: list[tuple[Any, Any, Any]] = [
            (params["stem"]["norm"], stats["stem"]["norm"], self.stem_norm)
        ]
        names = sorted(name for name in params if name.startswith("stage"))
        for name, block in zip(names, self.blocks, strict=True):
            for i in (1, 2):
                pairs.append((params[name][f"conv{i}"], getattr(block, f"conv{i}")))
                norm = f"norm{i}"
                norms.append((params[name][norm], stats[name][norm], getattr(block, norm)))
        with torch.no_grad():
            for theirs, conv in pairs:
                conv.weight.copy_(torch.tensor(np.asarray(theirs["kernel"]).transpose(3, 2, 0, 1)))
            for theirs, running, norm in norms:
                norm.weight.copy_(torch.tensor(np.asarray(theirs["scale"])))
                norm.bias.copy_(torch.tensor(np.asarray(theirs["bias"])))
                norm.running_mean.copy_(torch.tensor(np.asarray(running["mean"])))
                norm.running_var.copy_(torch.tensor(np.asarray(running["var"])))
            self.head.weight.copy_(torch.tensor(np.asarray(params["head"]["kernel"]).T))
            self.head.bias.copy_(torch.tensor(np.asarray(params["head"]["bias"])))


def crop_and_flip(
    padded: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor, pad: int
) -> torch.Tensor:
    """Returns crops of rows of a padded data set, some mirrored, in one gather.

    Args:
      padded: [examples, height + 2 pad, width + 2 pad, colours] uint8.
      rows: [batch] int64, which examples.
      offsets: [batch, 2] int64, corner of the crop.
      flips: [batch] bool.
      pad: pixels.

    Returns:
      [batch, colours, height, width] uint8, channels-last.
    """
    height, width = padded.shape[1] - 2 * pad, padded.shape[2] - 2 * pad
    down = offsets[:, :1] + torch.arange(height, device=padded.device)
    across = torch.arange(width, device=padded.device).expand(len(rows), width)
    across = torch.where(flips[:, None], width - 1 - across, across) + offsets[:, 1:]
    crops = padded[rows[:, None, None], down[:, :, None], across[:, None, :]]
    return crops.permute(0, 3, 1, 2)


class Peer:
    """The work of the benchmark, done by PyTorch."""

    def __init__(self, options: Options):
        """Makes the network and puts the data on the device."""
        torch.manual_seed(0)
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        images, labels = random_data(options.examples)
        on_device = torch.tensor(images, device=self.device)
        pad = options.pad
        self.padded = F.pad(on_device, (0, 0, pad, pad, pad, pad))
        self.labels = torch.tensor(labels, dtype=torch.int64, device=self.device)
        self.model = ResNet(NUM_CLASSES, options.stage_sizes)
        self.model = self.model.to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, foreach=True
        )
        self.forward: Any = self.model
        if options.torch_compile != "off":
            mode = None if options.torch_compile == "default" else options.torch_compile
            # Every depth is a program of its own, as ours.
            torch._dynamo.config.recompile_limit = options.blocks + 2
            self.forward = torch.compile(self.model, mode=mode, dynamic=False)

    def step(self, depth: int) -> torch.Tensor:
        """Takes one training step with the first `depth` blocks; returns the loss."""
        batch, pad = self.options.batch_size, self.options.pad
        rows = torch.randint(len(self.labels), (batch,), device=self.device)
        offsets = torch.randint(2 * pad + 1, (batch, 2), device=self.device)
        flips = torch.rand(batch, device=self.device) < 0.5
        images = crop_and_flip(self.padded, rows, offsets, flips, pad)
        return self.update(images, self.labels[rows], self.options.mask(depth))

    def update(
        self, images: torch.Tensor, labels: torch.Tensor, skip_mask: SkipMask
    ) -> torch.Tensor:
        """Takes one step on uint8 images; returns the loss."""
        self.model.train()
        with self._precision():
            logits = self.forward(self._normalise(images), skip_mask)
            loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train(self, depths: Sequence[int]) -> float:
        """Takes a step of each depth; returns the seconds until all are done."""
        started = time.perf_counter()
        for depth in depths:
            loss = self.step(depth)
        loss.item()
        return time.perf_counter() - started

    def sweep(self, one_pass: bool = True) -> float:
        """Measures every prefix on the sweep's images; returns the seconds.

        Args:
          one_pass: with a head after every block; else one forward pass a prefix.
        """
        self.model.eval()
        started = time.perf_counter()
        with torch.inference_mode(), self._precision():
            wrong = torch.zeros(self.options.blocks + 1, device=self.device)
            for first in range(0, self.options.sweep_examples, self.options.sweep_batch_size):
                pad = self.options.pad
                rows = slice(first, first + self.options.sweep_batch_size)
                cut = slice(pad, -pad) if pad else slice(None)
                x = self._normalise(self.padded[rows, cut, cut].permute(0, 3, 1, 2))
                y = self.labels[rows]
                if one_pass:
                    logits = self.model.truncations(x)
                else:
                    depths = range(self.options.blocks + 1)
                    logits = torch.stack([self.model(x, self.options.mask(d)) for d in depths])
                wrong += (logits.argmax(-1) != y).sum(1)
            wrong.cpu()
        return time.perf_counter() - started

    def peak_bytes(self) -> int:
        """Returns the most memory used: of the GPU, else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )

    def facts(self) -> dict[str, str]:
        """Returns versions and hardware."""
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {
            "torch": torch.__version__,
            "torch device": gpu,
            "torch threads": str(torch.get_num_threads()),
        }

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.options.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels to about zero mean and unit variance."""
        height, width, _ = IMAGE_SHAPE
        assert images.shape[-2:] == (height, width)
        return (images.float() / 255 - 0.5) / 0.25
