"""What a replay says, for a person: a table, a CSV file and a picture."""

import csv
import importlib.util
import io
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.links.comparison import STATISTICS, lines_of
from accordion_jax.delivery.links.replay import Curve
from accordion_jax.system.files import replacing, write_whole


def check_that_pictures_can_be_drawn() -> None:
    """Does nothing where they can.

    Raises:
      DeliveryError: Matplotlib is not installed; says how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise DeliveryError(
            "a picture needs Matplotlib, which is not installed: pip install matplotlib"
        )


def write_csv(
    path: str | os.PathLike, times_s: np.ndarray, by_round_trip: Mapping[float, Sequence[Curve]]
) -> None:
    """Writes a row a round trip, time and method.

    Columns are ``round_trip_s,time_s,method,mean,q10,median,q90``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["round_trip_s", "time_s", "method", "mean", "q10", "median", "q90"])
    for round_trip_s, curves in by_round_trip.items():
        for curve in curves:
            for time, mean, (low, median, high) in zip(
                times_s, curve.mean, curve.quantiles.T, strict=True
            ):
                figures = [f"{value:.6f}" for value in (mean, low, median, high)]
                times = [f"{value:.6g}" for value in (round_trip_s, time)]
                writer.writerow([*times, curve.method.name, *figures])
    write_whole(path, text.getvalue())


def draw_picture(
    path: str | os.PathLike, times_s: np.ndarray, curves: Sequence[Curve], *, title: str
) -> None:
    """Draws the mean, and below it a lucky, a middling and an unlucky request, on log time axes.

    Bands from quantile to quantile would hide each other: a model that is sent whole is either
    there or not, so its band is all or nothing.

    Raises:
      DeliveryError: as `check_that_pictures_can_be_drawn`.
    """
    check_that_pictures_can_be_drawn()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, height_ratios=(1.6, 1))
    above = figure.add_subplot(grid[0, :])
    below = [figure.add_subplot(grid[1, column]) for column in range(3)]
    panels = [
        (above, [curve.mean for curve in curves], "mean over all requests"),
        (below[0], [curve.quantiles[0] for curve in curves], "1 in 10 is better than this"),
        (below[1], [curve.quantiles[1] for curve in curves], "median"),
        (below[2], [curve.quantiles[2] for curve in curves], "1 in 10 is worse than this"),
    ]
    for axes, lines, name in panels:
        # The method that the experiment is about is drawn last, on top of the others.
        for index in reversed(range(len(curves))):
            axes.plot(
                times_s,
                100 * lines[index],
                color=f"C{index}",
                lw=2.5 if index == 0 else 1.5,
                drawstyle="default" if axes is above else "steps-post",
                label=curves[index].method.name,
            )
        axes.set_title(name, fontsize=10)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(_interesting_from(times_s, curves), times_s[-1])
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
        axes.set_xlabel("time since the request, s")
    above.set_ylabel("top-1 error, %")
    below[0].set_ylabel("top-1 error, %")
    handles, labels = above.get_legend_handles_labels()
    above.legend(handles[::-1], labels[::-1], loc="upper right")
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def draw_round_trips(
    path: str | os.PathLike,
    times_s: np.ndarray,
    by_round_trip: Mapping[float, Sequence[Curve]],
    named: Collection[str],
    *,
    title: str,
) -> None:
    """Draws a column a round trip, and a row each for the mean, the median and the worst tenth.

    Args:
      path: of the picture.
      times_s: [times].
      by_round_trip: seconds -> curves of the same methods, the one that it is about first.
      named: of the methods that have a colour and a name; the others are thin and grey.
      title: above all.

    Raises:
      DeliveryError: as `check_that_pictures_can_be_drawn`.
    """
    check_that_pictures_can_be_drawn()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 4 * len(by_round_trip), 11), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(STATISTICS), len(by_round_trip), squeeze=False, sharex="col", sharey="row"
    )
    # The first has a colour for itself; from the eleventh on they are dashed.
    colours = {name: f"C{(i - 1) % 9 + 1 if i else 0}" for i, name in enumerate(named)}
    dashed = {*list(named)[10:]}
    for column, (round_trip_s, curves) in enumerate(by_round_trip.items()):
        for axes, statistic in zip(panels[:, column], STATISTICS, strict=True):
            for number, curve in reversed(list(enumerate(curves))):
                name = curve.method.name
                axes.plot(
                    times_s,
                    100 * lines_of(curve)[statistic],
                    color=colours.get(name, "0.75"),
                    ls="--" if name in dashed else "-",
                    lw=2.5 if number == 0 else 1.3 if name in colours else 0.6,
                    zorder=2.5 if name in colours else 1.5,
                    drawstyle="default" if statistic == "mean" else "steps-post",
                    label=name if name in colours else None,
                )
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlim(_interesting_from(times_s, curves), times_s[-1])
            axes.set_ylim(0, 100)
            axes.grid(alpha=0.3)
            axes.set_title(f"{statistic}, round trip {1000 * round_trip_s:g} ms", fontsize=10)
        panels[-1, column].set_xlabel("time since the request, s")
    for axes in panels[:, 0]:
        axes.set_ylabel("top-1 error, %")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def _interesting_from(times_s: np.ndarray, curves: Sequence[Curve]) -> float:
    """The last time at which no method has anything for anybody."""
    first_s = min(float(np.min(curve.first_s)) for curve in curves)
    index = int(np.searchsorted(times_s, first_s))
    return float(times_s[max(index - 1, 0)]) if index < len(times_s) else float(times_s[0])


def summarise(times_s: np.ndarray, curves: Sequence[Curve], marks_s: Sequence[float]) -> str:
    """Returns a table: median time to the first and to the last model, mean error at some times."""
    width = max(len(curve.method.name) for curve in curves)
    head = f"{'':{width}}  first model  last model" + "".join(
        f"  error at {mark:g} s" for mark in marks_s
    )
    lines = [head]
    for curve in curves:
        line = f"{curve.method.name:{width}}  {np.median(curve.first_s):9.3f} s"
        line += f"  {np.median(curve.last_s):8.3f} s"
        for mark in marks_s:
            error = curve.mean[max(int(np.searchsorted(times_s, mark, side="right")) - 1, 0)]
            line += f"  {100 * error:{len(f'error at {mark:g} s') - 2}.1f} %"
        lines.append(line)
    return "\n".join(lines)
