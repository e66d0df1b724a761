"""The replay experiment: error against time since the request, over recorded links.

A device asks at a random moment of a recorded link, and from then on has at each moment the error
of the best model that has arrived:

* **Accordion**: that of the deepest configuration whose segments are all there;
* **full model**: chance until the last byte of the model, then the full model's;
* **8 bits, whole**: the same with a quarter of the bytes, and the error of the quantised model;
* **small models**: likewise, each with its own size and error.

Chance is 1 - 1/classes: what a device without a model can do. Accordion also waits for its
manifest, a round trip and some bytes; the others are given theirs.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.traces import Trace

_QUANTILES = (0.1, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to get a model onto a device.

    Attributes:
      name: for the legend.
      sizes_bytes: received until each of its models is complete, increasing.
      errors: top-1 error of each, 0 to 1.
      round_trips: before the first byte of a model.
    """

    name: str
    sizes_bytes: tuple[int, ...]
    errors: tuple[float, ...]
    round_trips: int = 1


@dataclasses.dataclass(frozen=True)
class Curve:
    """Error against time of one method, over all starts of all traces.

    Attributes:
      method: which.
      mean: [times] top-1 error.
      quantiles: [3, times]: that under which a tenth, half and nine tenths of the starts are.
      first_s: [samples] until its first model runs; infinity if never.
      last_s: [samples] until its last one does.
    """

    method: Method
    mean: np.ndarray
    quantiles: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray


def accordion(manifest: Manifest, overhead_bytes: int = 0) -> Method:
    """Returns the method that sends segments in order.

    Args:
      manifest: of the bundle; its table has the errors.
      overhead_bytes: received before the first segment, for instance the manifest.
    """
    sizes = np.cumsum([segment.size_bytes for segment in manifest.segments]) + overhead_bytes
    return Method(
        "Accordion",
        tuple(int(sizes[len(configuration.segments) - 1]) for configuration in manifest.ladder),
        tuple(row.top1_error for row in manifest.table.rows),
        round_trips=2,
    )


def whole(name: str, size_bytes: int, error: float) -> Method:
    """Returns the method that sends one model, of use when all of it is there."""
    return Method(name, (size_bytes,), (error,))


def draw_starts(trace: Trace, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns [count] start times in seconds, one in each of as many equal parts of the trace.

    Stratified: the parts of a trace count alike, and fewer starts are needed than if each was drawn
    from all of it.
    """
    return (np.arange(count) + rng.random(count)) * trace.end_s / count


def log_times(horizon_s: float, count: int = 240) -> np.ndarray:
    """Returns [count] times from 1 ms to the horizon, evenly spaced in their logarithm."""
    return np.geomspace(1e-3, horizon_s, count)


def replay(
    methods: Sequence[Method],
    traces: Sequence[Trace],
    times_s: np.ndarray,
    *,
    chance_error: float,
    starts: int,
    seed: int,
    round_trip_s: float = 0.0,
) -> list[Curve]:
    """Returns the curve of each method; all methods see the same links at the same moments.

    Args:
      methods: to compare.
      traces: of links. Each counts alike, however long, and goes on from its start at its end.
      times_s: [times] since the request, increasing.
      chance_error: top-1 error without a model.
      starts: requests a trace.
      seed: the same seed gives the same curves, byte for byte.
      round_trip_s: from a request until its first byte can arrive.

    Raises:
      ValueError: no traces or starts.
    """
    if not traces or starts < 1:
        raise ValueError(f"{len(traces)} traces with starts={starts}: wanted at least one of each")
    rng = np.random.default_rng(seed)
    # Of each method, [samples, models] seconds until a model is complete.
    arrivals: list[list[np.ndarray]] = [[] for _ in methods]
    for trace in traces:
        link, starts_s = Link(trace), draw_starts(trace, starts, rng)
        for found, method in zip(arrivals, methods, strict=True):
            wait_s = method.round_trips * round_trip_s
            sizes_bytes = np.array(method.sizes_bytes)
            took_s = link.transfer_time(starts_s[:, None] + wait_s, sizes_bytes)
            found.append(wait_s + took_s)
    curves = []
    for found, method in zip(arrivals, methods, strict=True):
        arrived_s = np.concatenate(found)
        errors = _errors_at(arrived_s, np.array(method.errors), times_s, chance_error)
        curves.append(
            Curve(
                method,
                errors.mean(axis=0),
                np.quantile(errors, _QUANTILES, axis=0, method="inverted_cdf"),
                arrived_s[:, 0],
                arrived_s[:, -1],
            )
        )
    return curves


def _errors_at(
    arrived_s: np.ndarray, errors: np.ndarray, times_s: np.ndarray, chance_error: float
) -> np.ndarray:
    """[samples, times] error of the deepest model that is complete."""
    with_chance = np.concatenate([[chance_error], errors])
    complete = [np.searchsorted(sample, times_s, side="right") for sample in arrived_s]
    return with_chance[np.array(complete)]


def write_csv(path: pathlib.Path, times_s: np.ndarray, curves: Sequence[Curve]) -> None:
    """Writes one row a time and method: ``time_s,method,mean,q10,median,q90``."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["time_s", "method", "mean", "q10", "median", "q90"])
        for curve in curves:
            for time, mean, (low, median, high) in zip(
                times_s, curve.mean, curve.quantiles.T, strict=True
            ):
                figures = [f"{value:.6f}" for value in (mean, low, median, high)]
                writer.writerow([f"{time:.6g}", curve.method.name, *figures])


def draw_picture(
    path: pathlib.Path, times_s: np.ndarray, curves: Sequence[Curve], *, title: str
) -> None:
    """Draws the mean, and below it a lucky, a middling and an unlucky request, on log time axes.

    Bands from quantile to quantile would hide each other: a model that is sent whole is either
    there or not, so its band is all or nothing.
    """
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
    figure.savefig(path, dpi=150, metadata={"Software": None})


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
