"""Policies: how often each configuration of a ladder is drawn in training."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from accordion_jax.depth.ladder import Ladder


@dataclasses.dataclass(frozen=True)
class Policy:
    """A probability distribution over the configurations of a ladder.

    Attributes:
      probabilities: one a configuration, smallest first.

    Raises:
      ValueError: a probability is negative or not finite, or they do not sum to one (within 1e-6);
        names the value and the sum.
    """

    probabilities: tuple[float, ...]

    def __post_init__(self):
        for index, probability in enumerate(self.probabilities):
            if not (math.isfinite(probability) and probability >= 0):
                raise ValueError(
                    f"probability {index} of the policy is {probability}; "
                    "every one must be finite and at least 0"
                )
        total = math.fsum(self.probabilities)
        if not total:
            raise ValueError(
                f"the policy's {len(self.probabilities)} probabilities sum to 0, not to 1; one at "
                "least must be positive"
            )
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"the policy's {len(self.probabilities)} probabilities sum to {total:.9g}, not to "
                f"1; divide each by {total:.9g}"
            )

    @property
    def drawn(self) -> tuple[int, ...]:
        """Indices of the configurations that can be drawn, the most probable first."""
        support = [i for i, p in enumerate(self.probabilities) if p > 0]
        return tuple(sorted(support, key=lambda i: (-self.probabilities[i], -i)))

    def expectation(self, values: Sequence[float]) -> float:
        """Mean of one value a configuration, weighted by how often each is drawn."""
        if len(values) != len(self.probabilities):
            raise ValueError(
                f"expected {len(self.probabilities)} values, one a configuration; got {len(values)}"
            )
        return math.fsum(p * v for p, v in zip(self.probabilities, values, strict=True) if p > 0)


def full_or_uniform(ladder: Ladder, full_probability: float, min_depth: int = 1) -> Policy:
    """Returns the paper's policy: the full model with a fixed probability, else uniform.

    The full model is drawn with probability `full_probability`; with the rest, the number of blocks
    is uniform over the ladder's smaller configurations of at least `min_depth` blocks. CoML-05 and
    BlockCoML-05 of the paper are ``full_probability=0.5``, CoML-03 is 0.3, and a network that is
    always trained whole is 1.

    Raises:
      ValueError: `full_probability` is outside [0, 1], or no smaller configuration is left for the
        rest of the probability.
    """
    if not 0 <= full_probability <= 1:
        raise ValueError(f"full_probability={full_probability} must be between 0 and 1")
    smaller = [c.depth >= min_depth for c in ladder.configurations[:-1]]
    if full_probability < 1 and not any(smaller):
        raise ValueError(
            f"full_probability={full_probability} leaves {1 - full_probability:.3g} for smaller "
            f"configurations, but none has min_depth={min_depth} or more of "
            f"{ladder.full.depth} blocks; lower min_depth or set full_probability=1"
        )
    share = (1 - full_probability) / max(sum(smaller), 1)
    return Policy((*(share * wanted for wanted in smaller), float(full_probability)))


def first_drawn(policy: Policy, *, seed: int, start: int, stop: int) -> list[int]:
    """Returns the configurations that the steps from `start` to `stop` draw, in order of need.

    A run can make ready what it will need first, since its draws are known beforehand.
    """
    found: dict[int, None] = {}
    for step in range(start, stop):
        found.setdefault(draw(policy, seed=seed, step=step))
        if len(found) == len(policy.drawn):
            break
    return list(found)


def draw(policy: Policy, *, seed: int, step: int) -> int:
    """Returns the index of the configuration for one training step.

    A function of (seed, step) and nothing else: every process of a run draws the same without
    talking to the others, and a restarted run goes on as if it had not stopped. The bits are
    Philox's (Salmon et al. 2011), whose raw output NumPy keeps stable across versions.

    Raises:
      ValueError: seed or step is negative.
    """
    if seed < 0 or step < 0:
        raise ValueError(f"seed={seed} and step={step} must not be negative")
    bits = np.random.Philox(key=np.array([seed, step], np.uint64)).random_raw()
    uniform = (int(bits) >> 11) * 2.0**-53
    cumulative = list(itertools.accumulate(policy.probabilities))
    index = bisect.bisect_right(cumulative, uniform)
    # Rounding can leave the last sum a hair under 1: the draw then belongs to the last that has
    # any probability.
    return min(index, max(policy.drawn))
