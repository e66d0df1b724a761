"""Pictures of policies, and of what they bring over links."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.links.picture import check_that_pictures_can_be_drawn
from accordion_jax.system.files import replacing


def draw_policies(
    path: str | os.PathLike,
    names: Sequence[str],
    policies: Mapping[str, Sequence[float]],
    *,
    title: str,
) -> None:
    """Draws a bar a configuration, those of several policies side by side.

    Args:
      path: of the picture.
      names: of the configurations, smallest first.
      policies: by label, one probability a configuration.
      title: above it.

    Raises:
      DeliveryError: Matplotlib is not installed.
    """
    figure, axes = _axes(min(max(6.5, 0.42 * len(names)), 11.0), 4.2)
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


def draw_expected_errors(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, error_name: str, title: str
) -> None:
    """Draws the rows of `expected.compare`: a group a deadline, a bar a label, intervals on them.

    Args:
      path: of the picture.
      rows: of `expected.compare`.
      error_name: what the error is called.
      title: above it.

    Raises:
      DeliveryError: Matplotlib is not installed.
    """
    deadlines = list(dict.fromkeys(row["deadline_s"] for row in rows))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    figure, axes = _axes(min(max(6.5, 1.2 + 0.5 * len(labels) * len(deadlines)), 20.0), 4.4)
    width = 0.82 / len(labels)
    for number, label in enumerate(labels):
        mine = [row for row in rows if row["label"] == label]
        values, low, high = (
            100 * np.array([row[name] for row in mine]) for name in ("value", "low", "high")
        )
        places = np.arange(len(deadlines)) + (number - (len(labels) - 1) / 2) * width
        axes.bar(
            places,
            values,
            width,
            yerr=np.maximum([values - low, high - values], 0),
            error_kw={"lw": 1, "capsize": 2.5, "alpha": 0.7},
            label=label,
        )
    axes.set_xticks(range(len(deadlines)), [f"{deadline:g} s" for deadline in deadlines])
    axes.set_xlabel("deadline, from the request")
    axes.set_ylabel(f"expected {error_name}, %")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=min(len(labels), 3))
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def _axes(width: float, height: float) -> tuple[Any, Any]:
    check_that_pictures_can_be_drawn()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
