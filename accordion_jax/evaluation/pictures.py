"""Pictures of look-up tables: error against what is sent, like Fig. 4 of Ayed et al."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from accordion_jax.depth import LookupTable
from accordion_jax.system.files import replacing


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a picture: a run, or the mean of runs that differ only in seed.

    Attributes:
      label: in the legend.
      mbit: [rows] transmitted, in 10^6 bits.
      error: [rows] share of wrong answers, 0 to 1.
      low: [rows] lower edge of the band.
      high: [rows] upper edge.
      band: what the band is, for the legend.
    """

    label: str
    mbit: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    band: str


def average_seeds(label: str, tables: Sequence[LookupTable], bits_per_parameter: int = 0) -> Curve:
    """Returns the curve of one run with its 95 % interval, or of several as mean and deviation.

    Args:
      label: in the legend.
      tables: of runs that differ only in seed; one or more.
      bits_per_parameter: of the axis; 0 is the true bytes, batch-norm statistics included. The
        paper's axis counts 64 bits a parameter.

    Raises:
      ValueError: the tables have other configurations; names both.
    """
    first = tables[0]
    for table in tables[1:]:
        names = [[row.configuration for row in each.rows] for each in (first, table)]
        if names[0] != names[1]:
            raise ValueError(
                f"{label}: runs to average must have the same configurations; one has {names[0]}, "
                f"another {names[1]}; sweep them with the same config.sweep.depths"
            )
    mbit = [
        row.parameters * bits_per_parameter / 1e6 if bits_per_parameter else row.mbit
        for row in first.rows
    ]
    errors = np.array([[row.top1_error for row in table.rows] for table in tables])
    if len(tables) == 1:
        low = np.array([row.error_low for row in first.rows])
        high = np.array([row.error_high for row in first.rows])
        return Curve(label, np.array(mbit), errors[0], low, high, "95 % interval")
    mean, deviation = errors.mean(0), errors.std(0, ddof=1)
    band = f"± 1 s.d. of {len(tables)} seeds"
    low, high = np.maximum(mean - deviation, 0), np.minimum(mean + deviation, 1)
    return Curve(label, np.array(mbit), mean, low, high, band)


def draw_error_vs_size(
    curves: Sequence[Curve],
    path: str | os.PathLike,
    *,
    title: str = "",
    axis: str = "float32",
    error_name: str = "top-1 error",
) -> pathlib.Path:
    """Draws the error against transmitted Mbit, one curve a run, and writes it whole.

    Args:
      curves: at least one.
      path: of the picture; its ending gives the format.
      title: above it.
      axis: how the bits are counted, for the axis label.
      error_name: what the error is called.

    Returns:
      The path.

    Raises:
      ValueError: the path's ending is no format that can be drawn; names it.
    """
    # Imported here: it takes half a second, and only who draws should wait for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = pathlib.Path(path)
    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    # That of TeX needs more than Matplotlib.
    formats = FigureCanvasAgg(figure).get_supported_filetypes().keys() - {"pgf"}
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(
            f"{path} has no ending of a picture's format; use .png or one of {sorted(formats)}"
        )
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        colour = f"C{number}"
        marker = "o" if len(curve.mbit) <= 30 else "."
        axes.plot(curve.mbit, 100 * curve.error, marker, ls="-", ms=4, lw=1.4, color=colour)
        axes.fill_between(
            curve.mbit, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.18, lw=0
        )
        axes.plot([], [], marker, ls="-", ms=4, color=colour, label=f"{curve.label} ({curve.band})")
    axes.set_xlabel(f"transmitted, Mbit ({axis})")
    axes.set_ylabel(f"{error_name}, %")
    axes.set_xlim(left=0)
    highest = max(float(curve.high.max()) for curve in curves)
    axes.set_ylim(0, min(100, 105 * highest) or 1)
    axes.grid(alpha=0.3, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path
