"""Fits a policy: to what a link carries, to what is asked for, and to mixtures of these.

The paper's two criteria (Ayed et al., section on communication-aware training): train the
configurations that will be asked for, as often as they will be asked for.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from accordion_jax.depth.policy_file import check_distribution
from accordion_jax.depth.table import LookupTable


def best_that_arrives(arrival: npt.ArrayLike) -> tuple[np.ndarray, float]:
    """Returns how often each configuration is the largest that arrives in time.

    Args:
      arrival: [configurations] probability that each arrives in time, smallest first; a larger one
        arrives no more often than a smaller one.

    Returns:
      ([configurations] probabilities among the cases where something arrives, share of the cases
      where not even the smallest does: they are left out, as no training helps them).

    Raises:
      ValueError: nothing arrives in any case.
    """
    arrival = np.asarray(arrival, float)
    shares = np.maximum(arrival - np.append(arrival[1:], 0.0), 0.0)
    if shares.sum() <= 0:
        raise ValueError(
            "not even the smallest configuration arrives in time, in any case: allow a longer "
            "deadline, take a faster link, or send a smaller model"
        )
    return shares / shares.sum(), float(1 - arrival[0])


@dataclasses.dataclass(frozen=True)
class Demand:
    """What one device asks for; None leaves a thing open.

    Attributes:
      max_error: the error to reach, 0 to 1.
      max_bytes: that may be sent.
      max_macs: multiply-accumulates for one example.

    Raises:
      ValueError: a value is negative or no number, or max_error is above 1; names it.
    """

    max_error: float | None = None
    max_bytes: float | None = None
    max_macs: float | None = None

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be finite and at least 0")
        if self.max_error is not None and self.max_error > 1:
            raise ValueError(
                f"max_error={self.max_error} must be a share from 0 to 1, not a percentage; did "
                f"you mean {self.max_error / 100:g}?"
            )


@dataclasses.dataclass(frozen=True)
class Answered:
    """What becomes of demands.

    Attributes:
      probabilities: [rows] of a table, among the demands that can be served.
      unreached: share of all demands whose max_error no configuration has: they count for the full
        model, or for the best within their bounds where they have some.
      unserved: share of all demands whose bounds not even the smallest configuration keeps: they
        are left out.
    """

    probabilities: np.ndarray
    unreached: float
    unserved: float


def smallest_within(errors: Sequence[float], max_error: float) -> int | None:
    """Returns the index of the smallest configuration of at most this error; None where none has.

    Args:
      errors: of configurations, smallest first.
      max_error: 0 to 1.
    """
    return next((i for i, error in enumerate(errors) if error <= max_error), None)


def smallest_that_satisfies(table: LookupTable, demands: Mapping[Demand, float]) -> Answered:
    """Returns how often each row of a table is the smallest that satisfies a demand.

    Within the bounds of a demand: with max_error the smallest row that reaches it, and where none
    within them does, the largest; without it the largest.

    Args:
      table: of a trained model; its errors decide.
      demands: how often each is made; any positive numbers.

    Raises:
      ValueError: there are no demands, or none can be served.
    """
    total = math.fsum(demands.values())
    if not total > 0:
        raise ValueError("there are no demands with a share above 0; give at least one")
    weights, unreached, unserved = np.zeros(len(table)), 0.0, 0.0
    for demand, weight in demands.items():
        within = [
            i
            for i, row in enumerate(table.rows)
            if (demand.max_bytes is None or row.size_bytes <= demand.max_bytes)
            and (demand.max_macs is None or row.macs <= demand.max_macs)
        ]
        if not within:
            unserved += weight
            continue
        index = within[-1]
        if demand.max_error is not None:
            reached = smallest_within([table.rows[i].top1_error for i in within], demand.max_error)
            index = index if reached is None else within[reached]
            if min(row.top1_error for row in table.rows) > demand.max_error:
                unreached += weight
        weights[index] += weight
    if not weights.any():
        raise ValueError(
            "no demand can be served: not even the smallest configuration, "
            f"{table.rows[0].configuration!r} of {table.rows[0].size_bytes} bytes and "
            f"{table.rows[0].macs} multiply-accumulates, is within any of their bounds"
        )
    return Answered(weights / weights.sum(), unreached / total, unserved / total)


def mixture(
    policies: Sequence[npt.ArrayLike],
    weights: Sequence[float],
    *,
    full_probability: float = 0.0,
    floor: float = 0.0,
    wanted: Sequence[bool] | None = None,
) -> np.ndarray:
    """Returns a mixture of policies that keeps some probability for the full model and for each.

    q of the full model, f for each wanted configuration, and the policies, mixed by their weights,
    for the rest: q e_full + f 1_wanted + (1 - q - f wanted) sum_k w_k p_k. So the full model has at
    least q, and no wanted configuration less than f.

    Args:
      policies: each [configurations] probabilities, the full model last.
      weights: of the policies; they sum to 1.
      full_probability: q.
      floor: f.
      wanted: [configurations] that get the floor; all where None.

    Raises:
      ValueError: the weights are no distribution, the policies are of different ladders, or q and
        the floors exceed 1; names the values.
    """
    check_distribution(weights, "the mixture")
    stacked = [np.asarray(each, float) for each in policies]
    if len({len(each) for each in stacked}) != 1 or len(stacked) != len(weights):
        raise ValueError(
            f"{len(weights)} weights for policies of {[len(each) for each in stacked]} "
            "configurations; wanted as many of each, of one ladder"
        )
    some = np.ones(len(stacked[0])) if wanted is None else np.asarray(wanted, float)
    rest = 1 - full_probability - floor * some.sum()
    if not (full_probability >= 0 and floor >= 0 and rest >= -1e-9):
        raise ValueError(
            f"full_probability={full_probability:g} and floor={floor:g} for each of "
            f"{some.sum():.0f} configurations make {1 - rest:g}; wanted at least 0 each, and at "
            "most 1 together"
        )
    mixed = max(rest, 0.0) * np.tensordot(np.asarray(weights, float), np.array(stacked), 1)
    mixed += floor * some
    mixed[-1] += full_probability
    return mixed / mixed.sum()


def histogram(items: Iterable[str], field: str) -> dict[Demand, float]:
    """Returns the demands of a list (``0.1,0.2``) or of a histogram (``0.1:0.7,0.2:0.3``).

    Args:
      items: each a value, or a value, a colon and its share or count.
      field: of `Demand` that the values are.

    Raises:
      ValueError: an item is no number, a share is negative, or as `Demand`; names the item.
    """
    demands: Counter[Demand] = Counter()
    for item in items:
        value, weight = weighted(item, f"--{field}")
        demands[Demand(**{field: value})] += weight  # type: ignore[assignment]
    return dict(demands)


def weighted(item: str, where: str) -> tuple[float, float]:
    """Returns the number and the weight of ``0.3`` (weight 1) or ``0.3:0.5``.

    Raises:
      ValueError: either is no number, or the weight is negative; names the item.
    """
    value, colon, weight = item.strip().partition(":")
    try:
        found = float(value), float(weight) if colon else 1.0
    except ValueError:
        found = (math.nan, math.nan)
    if not (math.isfinite(found[0]) and math.isfinite(found[1]) and found[1] >= 0):
        raise ValueError(
            f"{where}: {item!r} is neither a number, such as 0.3, nor one with its share or count, "
            "such as 0.3:0.25"
        )
    return found
