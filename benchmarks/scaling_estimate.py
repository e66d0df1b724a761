"""How long a data-parallel training step should take on a slice of TPU chips: arithmetic only.

Nothing here is measured. A chip's time is the longer of its arithmetic and its memory traffic, and
then the all-reduce, with no overlap:

    arithmetic     3 x 2 x MACs x images / (utilisation x peak)
    memory         (passes over the features + passes over the state) / HBM bandwidth
    all-reduce     2 (n - 1) / n x bytes / (share x ICI bandwidth) + operations x hops x latency

A backward pass costs twice a forward one, hence the 3; a multiply-accumulate is two operations. A
ring or torus all-reduce makes each chip send 2 (n - 1) / n of the bytes, in 2 x (side - 1) hops
along each axis (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002). The fixed cost of
starting kernels is left out, which flatters small batches.

TPU v5e's public figures (https://cloud.google.com/tpu/docs/v5e): 197 TFLOP/s in bfloat16 and
819 GB/s of HBM a chip; interconnect of 1,600 Gbit/s a chip in each direction (newer editions of
the page write 400 GB/s for both), over four ports. A slice of 4 x 4 is a piece of the pod's torus:
a chip at its corner has neighbours at two of the four ports, so by default half of that counts.
"""

import dataclasses
import math
from collections.abc import Sequence

# Over each convolution's output. Forward: the convolution writes it; batch norm reads it for the
# statistics, reads it again and writes; the next convolution reads (5). Backward: batch norm and
# ReLU read gradient and features for two sums, read both again and write (5); the convolution reads
# that and writes its input's gradient (2), and reads it and its input for the kernel's (2). Adding
# the shortcuts, in both directions: 1 a convolution.
FEATURE_PASSES = 15
# Over the parameters: read forward and backward; gradient written and read; parameter and momentum
# read and written.
STATE_PASSES = 8
COMBINED_ARRAYS = (
    256  # that XLA puts into one all-reduce at the most, as its compiled programs show
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips and the links between them.

    Attributes:
      sides: chips along each axis of the torus or mesh.
      peak_flops: operations a second of a chip.
      hbm_bytes_per_s: of a chip.
      ici_bytes_per_s: that a chip sends, over all its ports.
      ici_share: of that bandwidth, what an all-reduce uses.
      hop_s: seconds from a chip to its neighbour, for an empty message.
      utilisation: share of the peak that the convolutions reach.
    """

    sides: tuple[int, ...] = (4, 4)
    peak_flops: float = 197e12
    hbm_bytes_per_s: float = 819e9
    ici_bytes_per_s: float = 1600e9 / 8
    ici_share: float = 0.5
    hop_s: float = 1e-6
    utilisation: float = 0.1

    @property
    def chips(self) -> int:
        """In the slice."""
        return math.prod(self.sides)

    @property
    def one(self) -> "Slice":
        """A single chip of the same kind."""
        return dataclasses.replace(self, sides=(1,))


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step of one configuration does.

    Attributes:
      macs: multiply-accumulates of a forward pass, for one image.
      features: numbers in the outputs of its convolutions, for one image.
      parameters: trained numbers.
      averaged_bytes: that the devices average.
      averaged_arrays: in how many arrays.
      feature_bytes: of one feature; 4 for float32.
    """

    macs: int
    features: int
    parameters: int
    averaged_bytes: int
    averaged_arrays: int
    feature_bytes: int = 4


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step on each chip.

    Attributes:
      arithmetic_s: if nothing else limited it.
      memory_s: if nothing else limited it.
      communication_s: the all-reduce.
    """

    arithmetic_s: float
    memory_s: float
    communication_s: float

    @property
    def step_s(self) -> float:
        """The longer of arithmetic and memory, then the all-reduce."""
        return max(self.arithmetic_s, self.memory_s) + self.communication_s


def step_times(work: Work, batch_size: int, chips: Slice) -> Times:
    """Returns the seconds of a step.

    Args:
      work: of the step's configuration.
      batch_size: over all chips.
      chips: that share it.

    Raises:
      ValueError: the chips do not divide the batch; names both.
    """
    n = chips.chips
    if batch_size % n:
        raise ValueError(f"batch_size={batch_size} is not divisible by {n} chips")
    images = batch_size // n
    moved = FEATURE_PASSES * work.feature_bytes * work.features * images
    moved += STATE_PASSES * 4 * work.parameters
    hops = 2 * sum(side - 1 for side in chips.sides)
    all_reduces = -(-work.averaged_arrays // COMBINED_ARRAYS)
    sent = 2 * (n - 1) / n * work.averaged_bytes
    return Times(
        arithmetic_s=3 * 2 * work.macs * images / (chips.utilisation * chips.peak_flops),
        memory_s=moved / chips.hbm_bytes_per_s,
        communication_s=sent / (chips.ici_share * chips.ici_bytes_per_s)
        + all_reduces * hops * chips.hop_s,
    )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean step of a policy.

    Attributes:
      times: each the mean over the draws.
      step_s: the mean step on the slice.
      single_s: the mean step on one chip with the whole batch.
      efficiency: single_s / (chips x step_s).
    """

    times: Times
    step_s: float
    single_s: float
    efficiency: float


def estimate(drawn: Sequence[tuple[float, Work]], batch_size: int, chips: Slice) -> Estimate:
    """Returns the mean step when configurations are drawn with these probabilities.

    Args:
      drawn: (probability, work); the probabilities sum to one.
      batch_size: over all chips, the same on one chip.
      chips: that share it.
    """
    many = [(p, step_times(work, batch_size, chips)) for p, work in drawn]
    step_s = math.fsum(p * times.step_s for p, times in many)
    single_s = math.fsum(p * step_times(work, batch_size, chips.one).step_s for p, work in drawn)
    mean = Times(
        math.fsum(p * times.arithmetic_s for p, times in many),
        math.fsum(p * times.memory_s for p, times in many),
        math.fsum(p * times.communication_s for p, times in many),
    )
    return Estimate(mean, step_s, single_s, single_s / (chips.chips * step_s))
