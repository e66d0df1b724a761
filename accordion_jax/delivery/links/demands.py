"""What it takes to meet demands: bytes, time, and demands that are not met.

A demand is an error that a device must not exceed. It is sent the smallest configuration whose
error by the table is at most that, so a model that does well at a small size costs less. This is
what a policy that is fitted to demand is for, where the expected error over a link is not.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.links.expected import Arrivals, Deadlines, arrivals
from accordion_jax.delivery.links.replay import Method
from accordion_jax.depth.fitting import smallest_within

Demanded = Mapping[float, float]  # error that may not be exceeded -> share or count


def unmet(
    links: Sequence[Arrivals],
    method: Method,
    deadlines: Deadlines,
    *,
    demanded: Demanded,
    round_trip_s: float = 0.0,
) -> np.ndarray:
    """Returns [links] shares of demands that are not met at the deadline.

    Args:
      links: measured or modelled.
      method: sizes and errors of a model's configurations.
      deadlines: from the request.
      demanded: how often each error is.
      round_trip_s: of which the method takes some.
    """
    wait_s = method.round_trips * round_trip_s
    arrive = arrivals(links, method.sizes_bytes, deadlines, wait_s=wait_s)
    meets = np.zeros(len(method.errors))
    for max_error, share in demanded.items():
        index = smallest_within(method.errors, max_error)
        if index is not None:
            meets[index] += share
    return 1 - arrive @ meets / math.fsum(demanded.values())


def meet(
    groups: Mapping[str, Sequence[Method]], demanded: Demanded, reference: str | None = None
) -> list[dict[str, Any]]:
    """Returns one JSON-able row a label: what is sent for the demands, and what comes of it.

    For a demand that no configuration meets the largest is sent.

    Args:
      groups: by label the methods of one policy, one a seed, in the same order of seeds.
      demanded: how often each error is.
      reference: label that the others' bytes are compared with, paired by seed where both have as
        many; None compares none.

    Raises:
      ValueError: no demand has a share above 0.
    """
    total = math.fsum(demanded.values())
    if not total > 0:
        raise ValueError("there are no demands with a share above 0; give at least one")
    shares = {max_error: share / total for max_error, share in demanded.items()}
    rows: list[dict[str, Any]] = []
    for label, methods in groups.items():
        sent, errors, missed = (np.zeros(len(methods)) for _ in range(3))
        by_demand: list[dict[str, Any]] = []
        for max_error, share in shares.items():
            found = [smallest_within(method.errors, max_error) for method in methods]
            indices = [-1 if index is None else index for index in found]
            pairs = list(zip(methods, indices, strict=True))
            sizes = np.array([method.sizes_bytes[index] for method, index in pairs])
            sent += share * sizes
            errors += share * np.array([method.errors[index] for method, index in pairs])
            missed += share * np.array([index is None for index in found])
            met = sum(index is not None for index in found)
            mean = {"max_error": max_error, "share": share, "bytes": float(sizes.mean())}
            by_demand.append(mean | {"seeds_that_meet_it": met})
        rows.append(
            {
                "label": label,
                "seeds": len(methods),
                "bytes": _over_seeds(sent),
                "error": _over_seeds(errors),
                "unmet": _over_seeds(missed),
                "by_demand": by_demand,
                "difference": None,
            }
        )
    by_label = {row["label"]: np.array(row["bytes"]["by_seed"]) for row in rows}
    for row in rows:
        if reference is not None and row["label"] != reference:
            mine, other = by_label[row["label"]], by_label[reference]
            paired = mine - other if len(mine) == len(other) else mine.mean() - other.mean()
            row["difference"] = _over_seeds(np.atleast_1d(paired))
    return rows


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
    by_seed = [float(value) for value in values]
    deviation = statistics.stdev(by_seed) if len(by_seed) > 1 else None
    return {"value": statistics.fmean(by_seed), "by_seed": by_seed, "deviation": deviation}


def markdown(rows: Sequence[Mapping[str, Any]], error_name: str, reference: str | None) -> str:
    """Returns a Markdown table of `meet`: a row a label, a column a demand."""
    demands = rows[0]["by_demand"]
    columns = [f"{100 * each['max_error']:g} % ({100 * each['share']:.3g} %)" for each in demands]
    head = ["kB for a demand", "seeds", *columns, "mean", error_name, "not met"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in rows:
        cells = [
            row["label"],
            str(row["seeds"]),
            *(_cell(e, row["seeds"]) for e in row["by_demand"]),
        ]
        mean = _figures(row["bytes"], 1e-3, ",.1f")
        if row["difference"] is not None:
            mean += f"; {_figures(row['difference'], 1e-3, '+,.1f')}"
        cells += [mean, *(f"{_figures(row[name], 100, '.2f')} %" for name in ("error", "unmet"))]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        f"\nBytes of the smallest configuration whose {error_name} is at most the one demanded (in "
        'brackets the share of the demands); "-" where none has it: the largest is sent, and counts'
    )
    if any(row["seeds"] > 1 for row in rows):
        note += "; ± the standard deviation over seeds"
    if reference:
        note += f"; after the mean its difference from {reference}"
    return "\n".join([*lines, note + "."])


def _cell(each: Mapping[str, Any], seeds: int) -> str:
    met = each["seeds_that_meet_it"]
    if not met:
        return "-"
    return f"{each['bytes'] / 1e3:,.1f}" + (f" ({met} of {seeds} meet it)" if met < seeds else "")


def _figures(mean: Mapping[str, Any], unit: float, form: str) -> str:
    shown = format(unit * mean["value"], form)
    if mean["deviation"] is None:
        return shown
    return f"{shown} ± {format(unit * mean['deviation'], form.replace('+', ''))}"
