"""What a step has to do, how long each limit alone would make it take, and which one binds."""

import dataclasses
from collections.abc import Sequence

from accordion_jax.models import ResNet
from benchmarks.limits import Limits

ARITHMETIC, MEMORY, LAUNCHES = "arithmetic", "memory traffic", "launches"
EXPLAINED = 0.7  # share of the time from which a limit is said to bind

# How often a program that fuses all it can goes through a feature map (see `least_bytes`).
_PASSES_OF_BLOCK = 16
_PASSES_OF_STEM = 9
_PASSES_OF_PARAMETERS = 4  # parameter and momentum, each read and written


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step as compiled and measured; all of one device.

    Attributes:
      name: such as "27 blocks".
      images: of its batch.
      seconds: median of the measured.
      flops: 3 x 2 x multiply-accumulates x images: forward, and two gradients of each product.
      xla_flops: XLA's count of the compiled program; 0 where it gives none.
      xla_bytes: that each operation reads and writes, by XLA's count; 0 where it gives none.
      least_bytes: as the function.
      launches: operations that an execution launches.
      call_s: seconds until the call of the compiled step returns; the rest runs by itself.
      page_faults: minor page faults of the process in a step.
    """

    name: str
    images: int
    seconds: float
    flops: float
    xla_flops: float
    xla_bytes: float
    least_bytes: float
    launches: int
    call_s: float
    page_faults: float

    @property
    def traffic_bytes(self) -> float:
        """XLA's count of the traffic, or the lower bound where it gives none."""
        return self.xla_bytes or self.least_bytes

    def alone(self, limits: Limits, precision: str) -> dict[str, float]:
        """Returns the seconds that each limit alone would make the step take.

        Args:
          limits: of the device.
          precision: of the computation.
        """
        return {
            ARITHMETIC: self.flops / limits.matmul_flops[precision],
            MEMORY: self.traffic_bytes / limits.memory_bytes,
            LAUNCHES: self.launches * limits.operation_s + limits.dispatch_s,
        }


def step_flops(model: ResNet, units: Sequence[str], image_shape, images: int) -> float:
    """Returns the FLOPs of a training step: 3 x 2 x multiply-accumulates x images.

    The stem's gradient with respect to the images, which nobody needs, is counted too: 1 % of a
    ResNet-20, 0.2 % of a ResNet-110.

    Args:
      model: of the run.
      units: that the step keeps.
      image_shape: (height, width, colours).
      images: on one device.
    """
    macs = model.unit_macs(image_shape)
    return 3 * 2 * images * sum(macs[unit] for unit in units)


def least_bytes(
    model: ResNet, units: Sequence[str], image_shape, images: int, itemsize: int, parameters: int
) -> float:
    """Returns the bytes that a step must move if no cache keeps a feature map between two layers.

    Convolutions are kernels of their own, into which everything else is fused. Batch norm forces
    the rest: a map must be complete before it is normalised, and its gradient's sums before the
    gradient goes on. In a block with input x, convolutions a1 and a2 and output y, passes over a
    feature map are

    * a1: written, read by the second convolution, read for its gradients (weights, and the sums of
      batch norm), read by batch norm's gradient; its gradient is written and read: 6;
    * a2: written, read to make y, read for the sums, read by batch norm's gradient: 4;
    * y: written, read by the next shortcut, read for the next weight gradient; its gradient is
      written, read by the second convolution's gradients, read by the shortcut: 6;

    16 together, and 9 for the stem by the same count. Transitions and head are left out, images
    too; parameters and momentum are read and written once.

    Args:
      model: of the run.
      units: that the step keeps.
      image_shape: (height, width, colours).
      images: on one device.
      itemsize: bytes of a number of the features.
      parameters: numbers trained, float32.
    """
    height, width, _ = image_shape
    passes = {"stem": (_PASSES_OF_STEM, 0)}
    stages = [stage for stage, size in enumerate(model.stage_sizes) for _ in range(size)]
    for name, stage in zip(model.block_names, stages, strict=True):
        passes[name] = (_PASSES_OF_BLOCK, stage)
    numbers = sum(
        times * images * (height >> stage) * (width >> stage) * model.channels[stage]
        for times, stage in (passes[unit] for unit in units if unit in passes)
    )
    return itemsize * numbers + 4 * _PASSES_OF_PARAMETERS * parameters


def bound(alone: dict[str, float], seconds: float, longest_kind: str = "") -> str:
    """Returns a sentence that names what bounds a step.

    Args:
      alone: limit -> seconds that it alone would make the step take.
      seconds: measured.
      longest_kind: of operation, with its share of the time, to look at where no limit binds.
    """
    shares = {name: taken / seconds for name, taken in alone.items()}
    first = max(shares, key=lambda name: shares[name])
    together = sum(shares.values())
    look = f" Most of the time goes to: {longest_kind}." if longest_kind else ""
    if shares[first] > 1.05:
        return (
            f"Faster than {first} alone would allow ({shares[first]:.0%} of the measured time): "
            "caches serve a part of the traffic that is counted, or the limit was measured too low."
        )
    if shares[first] >= EXPLAINED:
        return f"Bound by {first}, which alone takes {shares[first]:.0%} of the measured time."
    if together >= EXPLAINED:
        return (
            f"Bound by no limit alone: {first} comes first ({shares[first]:.0%}), and all three, "
            f"one after another, would take {together:.0%} of the measured time.{look}"
        )
    return (
        f"Bound by none of the three: even one after another they would take only {together:.0%} "
        f"of the measured time ({first} {shares[first]:.0%}). What runs stays below the machine's "
        f"limits.{look}"
    )
