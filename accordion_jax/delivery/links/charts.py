"""Pictures of policies, and of what they bring over links."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.links.picture import check_that_pictures_can_be_drawn
from accordion_jax.depth.policy_file import Entry
from accordion_jax.system.files import replacing


def draw_policies(
    path: str | os.PathLike,
    entries: Sequence[Entry],
    policies: Mapping[str, Sequence[float]],
    *,
    title: str,
) -> None:
    """Draws a bar a configuration, those of several policies side by side.

    Args:
      path: of the picture.
      entries: of the configurations, smallest first.
      policies: by label, one probability a configuration.
      title: above it.

    Raises:
      DeliveryError: Matplotlib is not installed.
    """
    names = [f"{entry.name}\n{entry.size_bytes / 1e3:,.0f} kB" for entry in entries]
    figure, (axes,) = _figure(min(max(6.5, 0.42 * len(names)), 11.0), 4.2, 1)
    width = 0.82 / len(policies)
    for number, (label, probabilities) in enumerate(policies.items()):
        places = np.arange(len(names)) + (number - (len(policies) - 1) / 2) * width
        bars = axes.bar(places, 100 * np.array(probabilities), width, label=label)
        if len(policies) == 1 and len(names) <= 24:
            texts = [f"{100 * p:.1f}" if p else "0" for p in probabilities]
            axes.bar_label(bars, texts, fontsize=8, padding=2)
    every = max(1, -(-len(names) // 24))
    axes.set_xticks(
        range(0, len(names), every), names[::every], rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.12)
    axes.set_ylabel("drawn, % of the steps")
    axes.grid(axis="y", alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)
    if len(policies) > 1:
        axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def draw_over_links(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, measured: str, title: str
) -> None:
    """Draws the rows of `expected.compare`: a panel a deadline, a line a label.

    A dot is the mean with its interval, the small ones are single seeds. Where the rows have
    differences from one label these are drawn in place of the values: links differ far more than
    policies do, and the differences are paired by link.

    Args:
      path: of the picture.
      rows: of `expected.compare`.
      measured: what the values are.
      title: above it.

    Raises:
      DeliveryError: Matplotlib is not installed.
    """
    deadlines = list(dict.fromkeys(row["deadline_s"] for row in rows))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    differ = any(row["difference"] for row in rows)
    figure, panels = _figure(2.2 + 2.6 * len(deadlines), 1.5 + 0.25 * len(labels), len(deadlines))
    for axes, deadline_s in zip(panels, deadlines, strict=True):
        at = {row["label"]: row for row in rows if row["deadline_s"] == deadline_s}
        named = f"{deadline_s:g} s"
        for place, label in enumerate(labels):
            row = at[label]
            mean = row["difference"] if differ else row
            if row["chosen"]:
                across = axes.get_yaxis_transform()
                where = {"transform": across, "ha": "right", "va": "bottom", "fontsize": 7}
                axes.text(0.99, place - 0.12, row["chosen"], color="0.3", **where)
            if mean is None:  # the label that the others differ from
                named += f" ({label}: {100 * row['value']:.1f} %)"
                axes.axvline(0, color="0.4", lw=1)
                axes.plot(0, place, "D", ms=5, color="0.4")
                continue
            value, low, high = (100 * mean[name] for name in ("value", "low", "high"))
            spread = [[value - low], [high - value]]
            axes.errorbar(value, place, xerr=spread, fmt="o", ms=5, capsize=2.5, lw=1, color="C0")
            if len(mean["by_seed"]) > 1:
                seeds = 100 * np.array(mean["by_seed"])
                axes.plot(seeds, np.full(len(seeds), place), ".", ms=4, color="0.25", alpha=0.6)
        axes.set_title(named, fontsize=9)
        axes.grid(axis="x", alpha=0.3, lw=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(labels)), labels, fontsize=9)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    unit = "difference, percentage points" if differ else "%"
    figure.supxlabel(f"{measured} at the deadline, {unit}", fontsize=10)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def _figure(width: float, height: float, panels: int) -> tuple[Any, Any]:
    """A figure of inches and its panels, side by side."""
    check_that_pictures_can_be_drawn()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found
