"""The picture of all compositions: error against bytes, and against operations."""

import os
from collections.abc import Mapping
from typing import Any

from accordion_jax.delivery.links.picture import check_that_pictures_can_be_drawn
from accordion_jax.system.files import replacing
from benchmarks.compositions.early_exit import best_of

_MARKERS = "osD^vP*Xh<>"
_COLOURS = (0, 1, 2, 3, 4, 5, 6, 8, 9)  # of Matplotlib's cycle, without its grey
_OF_RIVALS: dict[str, Any] = {"ms": 5, "lw": 1.0, "ls": "-", "alpha": 0.85}
_OF_OURS = _OF_RIVALS | {"ms": 3, "ls": "--"}


def draw(path: str | os.PathLike, document: Mapping[str, Any]) -> None:
    """Draws the rows of a table, and its early exits where there are any.

    Args:
      path: of the picture.
      document: of `benchmarks.compositions.table`.

    Raises:
      DeliveryError: Matplotlib is not installed.
    """
    check_that_pictures_can_be_drawn()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = document["early_exit"]
    figure = Figure(figsize=(13 if found else 8.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 2 if found else 1, width_ratios=(1.6, 1) if found else (1,))
    axes = panels[0] if found else panels
    _draw_bytes(axes, document)
    if found:
        _draw_macs(panels[1], document)
    figure.suptitle(f"{document['dataset']}, {document['examples']:,} test images", fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def _draw_bytes(axes: Any, document: Mapping[str, Any]) -> None:
    families = list(dict.fromkeys(row["family"] for row in document["rows"]))
    own = list(dict.fromkeys(row["family"] for row in document["rows"] if not row["rival"]))
    for number, family in enumerate(families):
        colour, label, looks = f"C{_COLOURS[number % len(_COLOURS)]}", family, _OF_RIVALS
        lines = [row["points"] for row in document["rows"] if row["family"] == family]
        if family in own:  # a grey line each: rivals have the colours
            colour = str(0.7 * own.index(family) / len(own))
            label, looks = f"{family}, best bits", _OF_OURS
            every = (point for line in lines for point in line)
            lines = [best_of(every, lambda point: (point["bytes"], point["error"]))]
        for i, points in enumerate(lines):
            axes.plot(
                [point["bytes"] / 1e3 for point in points],
                [100 * point["error"] for point in points],
                color=colour,
                marker=_MARKERS[number % len(_MARKERS)],
                label=None if i else label,
                **looks,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")  # most networks are within a few points of the best
    axes.set_yticks([10, 15, 20, 30, 50, 80], minor=False)
    axes.yaxis.set_minor_formatter("")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("bytes received, kB")
    axes.set_ylabel("top-1 error, %")
    axes.set_title("error against bytes", fontsize=10)
    axes.grid(alpha=0.3, which="both", lw=0.6)
    if families:
        axes.legend(fontsize=8)


def _draw_macs(axes: Any, document: Mapping[str, Any]) -> None:
    found = document["early_exit"]
    axes.plot(
        [each["macs"] / 1e6 for each in found["fixed"]],
        [100 * each["error"] for each in found["fixed"]],
        "o--",
        color="C0",
        ms=4,
        label="one depth for all images",
    )
    curve = [each["test"] for each in found["curve"]]
    axes.plot(
        [each["mean_macs"] / 1e6 for each in curve],
        [100 * each["error"] for each in curve],
        ".-",
        color="C1",
        label="early exit by confidence",
    )
    small: dict[int, list[float]] = {}
    for row in document["rows"]:
        if row["family"] in ("small network", "plain"):
            small.setdefault(row["macs"], []).append(row["points"][0]["error"])
    axes.plot(
        [macs / 1e6 for macs in small],
        [100 * min(errors) for errors in small.values()],
        "s",
        color="C2",
        ms=5,
        label="networks of one size",
    )
    axes.set_xlabel("mean multiply-accumulates an image, M")
    axes.set_ylabel("top-1 error, %")
    axes.set_title("error against operations", fontsize=10)
    axes.grid(alpha=0.3, lw=0.6)
    axes.legend(fontsize=8)
