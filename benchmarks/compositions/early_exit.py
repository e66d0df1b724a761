"""Early exit at run time: an example leaves at the first read-out that is sure enough.

The read-outs are those that a network of any depth has already, so that nothing is added to it. An
example's confidence is its largest probability (Teerapittayanon et al. 2016, arXiv:1709.01686).
Thresholds are chosen on held-out examples: to a budget of operations, or to an error.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_CANDIDATES = 24  # thresholds a read-out that are tried
_PRICES = np.concatenate([[0.0], np.geomspace(1e-3, 3.0, 24)])


@dataclasses.dataclass(frozen=True)
class Answers:
    """What each read-out said of a data set.

    Attributes:
      confidence: [exits, examples], the largest probability.
      wrong: [exits, examples] bool.
    """

    confidence: np.ndarray
    wrong: np.ndarray

    @classmethod
    def of(cls, outputs: np.ndarray, targets: np.ndarray) -> "Answers":
        """Returns the answers of [exits, examples, classes] logits."""
        shifted = np.exp(outputs - outputs.max(-1, keepdims=True), dtype=np.float64)
        return cls((1 / shifted.sum(-1)), outputs.argmax(-1) != targets)


@dataclasses.dataclass(frozen=True)
class Exits:
    """Thresholds, and what they cost and bring.

    Attributes:
      thresholds: one an exit: an example leaves if its confidence is at least this; infinity is an
        exit that is never taken, 0 the last.
      error: on what was measured.
      mean_macs: likewise, an example.
    """

    thresholds: tuple[float, ...]
    error: float
    mean_macs: float


def measure(
    answers: Answers, thresholds: Sequence[float] | np.ndarray, macs: Sequence[int], head_macs: int
) -> Exits:
    """Returns error and mean cost of thresholds.

    Args:
      answers: of all read-outs.
      thresholds: one an exit, the last 0.
      macs: multiply-accumulates up to and with each read-out, if it is the only one.
      head_macs: of a read-out: an example pays for each that it passes.
    """
    limits = np.asarray(thresholds)
    leaves = answers.confidence >= limits[:, None]
    taken = leaves.argmax(0)
    every = np.arange(leaves.shape[1])
    passed = np.cumsum(np.isfinite(limits)) - 1
    cost = np.asarray(macs, np.float64) + head_macs * np.maximum(passed, 0)
    error = answers.wrong[taken, every].mean()
    return Exits(tuple(map(float, limits)), float(error), float(cost[taken].mean()))


def calibrate(answers: Answers, macs: Sequence[int], head_macs: int) -> list[Exits]:
    """Returns thresholds from cheap to good, each the best found at some price of operations.

    For each price, the sum of error and price * cost is made small one threshold at a time, until
    none improves it: from the thresholds of the price before, and from those of no exit at all.

    Args:
      answers: of held-out examples.
      macs: as `measure`.
      head_macs: as `measure`.
    """
    exits = len(macs)
    quantiles = np.linspace(0, 1, _CANDIDATES)
    candidates = [
        np.concatenate([np.unique(np.quantile(each, quantiles)), [np.inf]])
        for each in answers.confidence
    ]
    found: dict[tuple[float, ...], Exits] = {}
    start = np.full(exits, np.inf)
    start[-1] = 0
    last = start
    for price in _PRICES:
        best = min(
            (
                _descend(answers, begin, candidates, macs, head_macs, price)
                for begin in (last, start)
            ),
            key=lambda each: _total(each, price, macs),
        )
        last = np.asarray(best.thresholds)
        found[best.thresholds] = best
    hull, least = [], np.inf
    for each in sorted(found.values(), key=lambda each: (each.mean_macs, each.error)):
        if each.error < least:
            hull.append(each)
            least = each.error
    return hull


def at_budget(found: Sequence[Exits], mean_macs: float) -> Exits | None:
    """Returns the thresholds of least error within a budget; None if none is."""
    fits = [each for each in found if each.mean_macs <= mean_macs]
    return min(fits, key=lambda each: each.error, default=None)


def at_error(found: Sequence[Exits], error: float) -> Exits | None:
    """Returns the cheapest thresholds with at most an error; None if none has."""
    fits = [each for each in found if each.error <= error]
    return min(fits, key=lambda each: each.mean_macs, default=None)


def _total(found: Exits, price: float, macs: Sequence[int]) -> float:
    return found.error + price * found.mean_macs / macs[-1]


def _descend(
    answers: Answers,
    thresholds: np.ndarray,
    candidates: Sequence[np.ndarray],
    macs: Sequence[int],
    head_macs: int,
    price: float,
) -> Exits:
    """Improves one threshold at a time until none can be."""
    best = measure(answers, thresholds, macs, head_macs)
    while True:
        before = best
        for i in range(len(macs) - 1):
            for candidate in candidates[i]:
                tried = np.asarray(best.thresholds)
                tried[i] = candidate
                each = measure(answers, tried, macs, head_macs)
                if _total(each, price, macs) < _total(best, price, macs) - 1e-12:
                    best = each
        if best is before:
            return best
