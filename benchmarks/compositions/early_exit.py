"""Early exit at run time: an example leaves at the first read-out that is sure enough.

The read-outs are those that a network of any depth has already, so that nothing is added to it. An
example's confidence is its largest probability (Teerapittayanon et al. 2016, arXiv:1709.01686).
Thresholds are chosen on held-out examples: to a budget of operations, or to an error.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

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
    none improves it: from the thresholds of the price before, and from those of no exit at all. The
    best threshold of a read-out, with the others as they are, is found exactly: with the examples
    in the order of their confidence, all that may leave are a first part of them.

    Args:
      answers: of held-out examples.
      macs: as `measure`.
      head_macs: as `measure`.
    """
    start = np.full(len(macs), np.inf)
    start[-1] = 0
    found, last = [], start
    for price in _PRICES:
        tried = [_descend(answers, each, macs, head_macs, price) for each in (last, start)]
        best = min(tried, key=lambda each: _total(each, price, macs))
        last = np.asarray(best.thresholds)
        found.append(best)
    return best_of(found, lambda each: (each.mean_macs, each.error))


def best_of(
    found: Iterable[Any], cost_and_error: Callable[[Any], tuple[float, float]]
) -> list[Any]:
    """Returns those that err less than all that cost no more, from cheap to good."""
    best, least = [], np.inf
    for each in sorted(found, key=cost_and_error):
        if (error := cost_and_error(each)[1]) < least:
            best.append(each)
            least = error
    return best


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
    macs: Sequence[int],
    head_macs: int,
    price: float,
) -> Exits:
    """Improves one threshold at a time until none can be."""
    best = measure(answers, thresholds, macs, head_macs)
    while True:
        before = best
        for i in range(len(macs) - 1):
            tried = np.asarray(best.thresholds)
            tried[i] = _best_threshold(answers, tried, i, macs, head_macs, price)
            each = measure(answers, tried, macs, head_macs)
            if _total(each, price, macs) < _total(best, price, macs) - 1e-12:
                best = each
        if best is before:
            return best


def _best_threshold(
    answers: Answers,
    thresholds: np.ndarray,
    i: int,
    macs: Sequence[int],
    head_macs: int,
    price: float,
) -> float:
    """The threshold of one read-out with the least sum of error and priced cost."""
    leaves = answers.confidence >= thresholds[:, None]
    alive = np.flatnonzero(~leaves[:i].any(axis=0))
    later = leaves[i + 1 :, alive].argmax(axis=0) + i + 1
    of_macs = price * np.asarray(macs, np.float64) / macs[-1]
    of_head = price * head_macs / macs[-1]
    passed = np.cumsum(np.isfinite(thresholds[i + 1 :]))[later - i - 1] - 1  # read-outs after i
    stay = answers.wrong[later, alive] + of_macs[later] + of_head * np.maximum(passed, 0)
    leave = answers.wrong[i, alive] + of_macs[i]
    order = np.argsort(-answers.confidence[i, alive], kind="stable")
    sure = answers.confidence[i, alive][order]
    # Who goes on has passed one read-out more, where there is one at all.
    gains = np.cumsum((leave - stay - of_head)[order]) + of_head * len(alive)
    # A threshold lets all go that are as sure as the last one.
    ends = np.flatnonzero(np.append(sure[1:] < sure[:-1], len(sure) > 0)[: len(sure)])
    if not ends.size or gains[ends].min() >= 0:
        return np.inf
    return float(sure[ends[np.argmin(gains[ends])]])
