"""What policies bring over links by a deadline, with its spread over traces.

A device asks at a random moment and has, at the deadline, the model of least error by the table
among those that arrive in time: what a planner sends that knows the link. Where nothing arrives the
error is chance. The expectation over all starts of a trace is exact (`Link.arrival`); what is left
to estimate is how traces differ, and that is what the interval says. Other measures over links
(`demands.unmet`) are compared in the same way.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from accordion_jax.delivery.links.replay import Method

Deadlines = Mapping[float, float]  # seconds -> probability


class Arrivals(Protocol):
    """A link, measured or modelled."""

    def arrival(self, sizes_bytes: npt.ArrayLike, window_s: float) -> np.ndarray:
        """Returns [sizes] probabilities that so many bytes are carried in a time."""


# Gives one value a link for links, a method and deadlines; the smaller the better.
Measure = Callable[[Sequence[Arrivals], Method, Deadlines], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over traces and seeds.

    Attributes:
      value: the mean.
      low: lower end of the 95 % bootstrap interval over traces.
      high: upper end.
      by_seed: the mean of each seed over traces.
      deviation: standard deviation of these; None of one seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    deviation: float | None


def arrivals(
    links: Sequence[Arrivals],
    sizes_bytes: Sequence[int],
    deadlines: Deadlines,
    *,
    wait_s: float = 0.0,
) -> np.ndarray:
    """Returns [links, sizes] probabilities that so many bytes arrive by the deadline.

    Args:
      links: each over all of its moments.
      sizes_bytes: increasing.
      deadlines: from the request.
      wait_s: of each deadline that passes before the first byte: round trips.
    """
    return np.array(
        [
            sum(
                share * link.arrival(sizes_bytes, deadline_s - wait_s)
                for deadline_s, share in deadlines.items()
            )
            for link in links
        ]
    )


def expected_errors(
    links: Sequence[Arrivals],
    method: Method,
    deadlines: Deadlines,
    *,
    chance_error: float,
    round_trip_s: float = 0.0,
) -> np.ndarray:
    """Returns [links] expected errors at the deadline.

    Args:
      links: measured or modelled.
      method: sizes and errors of a model's configurations.
      deadlines: from the request.
      chance_error: where nothing arrives.
      round_trip_s: of which the method takes some.
    """
    wait_s = method.round_trips * round_trip_s
    arrive = arrivals(links, method.sizes_bytes, deadlines, wait_s=wait_s)
    steps = np.minimum.accumulate([chance_error, *method.errors])
    # From chance down, by what each configuration improves on all smaller ones.
    return chance_error + arrive @ np.diff(steps)


def bootstrap_mean(
    values: np.ndarray, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Mean:
    """Returns the mean of [seeds, links] values, its interval by resampling the links.

    Links are resampled, all seeds together: percentile bootstrap. Differences of two policies have
    an interval of their own, paired by link: give the difference.
    """
    values = np.atleast_2d(values)
    rng = np.random.default_rng(seed)
    by_link = values.mean(0)
    picked = rng.integers(0, len(by_link), (draws, len(by_link)))
    low, high = np.quantile(by_link[picked].mean(1), [(1 - level) / 2, (1 + level) / 2])
    by_seed = values.mean(1)
    deviation = float(by_seed.std(ddof=1)) if len(values) > 1 else None
    return Mean(float(by_link.mean()), float(low), float(high), tuple(by_seed.tolist()), deviation)


def compare(
    groups: Mapping[str, Sequence[Method]],
    links: Sequence[Arrivals],
    deadlines_s: Sequence[float],
    measure: Measure,
    *,
    round_trip_s: float = 0.0,
    reference: str | None = None,
    choose_on: Sequence[Arrivals] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Returns one JSON-able row a label and deadline: the measure over links.

    Args:
      groups: by label the methods of one policy, one a seed, in the same order of seeds.
      links: those to test on, not those that a policy was fitted to.
      deadlines_s: each by itself.
      measure: `expected_errors` or another, with all but its first three arguments bound.
      round_trip_s: as `expected_errors`; of the share of cases where nothing arrives.
      reference: label that the others' differences are from, paired by link; None compares none.
      choose_on: other links. With some there is one more row a deadline: the label that is best
        over these, by its mean over seeds, as it does over `links`.
      seed: of the bootstrap.
    """

    def values_of(methods: Sequence[Method], over: Sequence[Arrivals], at_s: float) -> np.ndarray:
        return np.array([measure(over, method, {at_s: 1.0}) for method in methods])

    rows = []
    for deadline_s in deadlines_s:
        by_label = {label: values_of(each, links, deadline_s) for label, each in groups.items()}
        shown = {label: label for label in groups}
        if choose_on:
            means = {
                label: values_of(g, choose_on, deadline_s).mean() for label, g in groups.items()
            }
            shown[f"best over {len(choose_on)} other links"] = min(means, key=means.__getitem__)
        for name, label in shown.items():
            values, method = by_label[label], groups[label][0]
            wait_s = method.round_trips * round_trip_s
            arrive = arrivals(links, method.sizes_bytes[:1], {deadline_s: 1.0}, wait_s=wait_s)
            row = {
                "label": name,
                "deadline_s": deadline_s,
                "seeds": len(values),
                "links": len(links),
                "nothing_arrives": float(1 - arrive.mean()),
                **dataclasses.asdict(bootstrap_mean(values, seed=seed)),
                "difference": None,
                "chosen": label if label != name else None,
            }
            if reference is not None and name != reference:
                other = by_label[reference]
                # Seeds are paired too where there are as many: they share their order of examples.
                paired = (
                    values - other if len(values) == len(other) else values.mean(0) - other.mean(0)
                )
                row["difference"] = dataclasses.asdict(bootstrap_mean(paired, seed=seed))
            rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], measured: str, reference: str | None) -> str:
    """Returns a Markdown table of `compare`: a row a label, a column a deadline.

    Args:
      rows: of `compare`.
      measured: what its values are.
      reference: as `compare`.
    """
    deadlines = list(dict.fromkeys(row["deadline_s"] for row in rows))
    lines = [
        f"| {measured} at the deadline | seeds | "
        + " | ".join(f"{deadline:g} s" for deadline in deadlines)
        + " |",
        "| --- " * (len(deadlines) + 2) + "|",
    ]
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = [_cell(row) for row in rows if row["label"] == label]
        seeds = dict.fromkeys(str(row["seeds"]) for row in rows if row["label"] == label)
        lines.append(f"| {label} | {', '.join(seeds)} | " + " | ".join(cells) + " |")
    shares = ", ".join(
        f"{100 * row['nothing_arrives']:.1f} % at {row['deadline_s']:g} s"
        for row in rows
        if row["label"] == rows[0]["label"]
    )
    over = f"Mean over {rows[0]['links']} links and its 95 % interval (bootstrap over links)"
    if rows[0]["links"] == 1:
        over = "One link: exact, so that the intervals say nothing"
    paired = f"; after it the difference from {reference}, likewise, paired" if reference else ""
    spread = "; ± the standard deviation over seeds" if any(r["seeds"] > 1 for r in rows) else ""
    notes = [
        f"\n{over}{spread}{paired}.",
        f"Not even the smallest configuration of {rows[0]['label']} arrives: {shares}.",
    ]
    return "\n".join([*lines, *notes])


def _cell(row: Mapping[str, Any]) -> str:
    def figures(mean: Mapping[str, Any], sign: str = "") -> str:
        value, low, high = (100 * mean[name] for name in ("value", "low", "high"))
        spread = f" ± {100 * mean['deviation']:.2f}" if mean["deviation"] is not None else ""
        return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]{spread}"

    shown = figures(row)
    if row["difference"] is not None:
        shown += f"; {figures(row['difference'], '+')}"
    return shown if row["chosen"] is None else f"{row['chosen']}: {shown}"
