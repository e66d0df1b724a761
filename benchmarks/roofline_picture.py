"""The roofline of a machine, and steps on it (Williams, Waterman and Patterson 2009)."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from benchmarks.limits import Limits
from benchmarks.step_bound import Step


def draw_roofline(
    out: str | os.PathLike[str], limits: Limits, precision: str, steps: Sequence[Step], title: str
) -> None:
    """Writes a picture: FLOP/s against operational intensity, with the measured ceilings.

    Args:
      out: file; its suffix says the format.
      limits: measured.
      precision: of the steps' computation: the ceiling that holds for them is drawn solid.
      steps: a filled point at the traffic that XLA counts, and a hollow one at the least.
      title: above the picture.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    peak = limits.matmul_flops[precision]
    intensities = [step.flops / b for step in steps for b in (step.traffic_bytes, step.least_bytes)]
    ridge = peak / limits.memory_bytes
    low = min([*intensities, ridge]) / 6
    high = max([*intensities, max(limits.matmul_flops.values()) / limits.memory_bytes]) * 6
    x = np.geomspace(low, high, 400)

    figure, axes = plt.subplots(figsize=(8, 5.2))
    axes.loglog(x, np.minimum(peak, x * limits.memory_bytes), color="black", linewidth=2)
    cached = limits.cache_bytes > 1.05 * limits.memory_bytes
    if cached:
        axes.loglog(x, np.minimum(peak, x * limits.cache_bytes), "--", color="grey", linewidth=1.2)
    for name, flops in limits.matmul_flops.items():
        if name != precision:
            axes.axhline(flops, color="grey", linestyle=":", linewidth=1.2)
        # The two peaks may lie close together: one is written above its line, one below.
        above = flops == max(limits.matmul_flops.values())
        axes.annotate(
            f"matrix product, {name}: {_si(flops)}FLOP/s",
            (high / 1.1, flops),
            (0, 4 if above else -4),
            textcoords="offset points",
            ha="right",
            va="bottom" if above else "top",
            fontsize=9,
        )
    axes.plot([], [], color="black", linewidth=2, label=f"memory: {_si(limits.memory_bytes)}B/s")
    if cached:
        size = f"{limits.cache_size_bytes / 1e6:.3g} MB"
        label = f"an array of {size}, again and again: {_si(limits.cache_bytes)}B/s"
        axes.plot([], [], "--", color="grey", linewidth=1.2, label=label)
    for i, step in enumerate(steps):
        color, rate = f"C{i}", step.flops / step.seconds
        points = [step.flops / step.traffic_bytes, step.flops / step.least_bytes]
        axes.plot(points, [rate] * 2, color=color, linewidth=0.8)
        of_peak = f"{_si(rate)}FLOP/s, {rate / peak:.0%} of peak"
        label = f"{step.name}: {step.seconds * 1e3:.4g} ms, {of_peak}"
        axes.plot(points[0], rate, "os"[i % 2], color=color, markersize=8, label=label)
        axes.plot(points[1], rate, "os"[i % 2], color=color, markersize=8, markerfacecolor="white")
    axes.set_xlim(low, high)
    rates = [step.flops / step.seconds for step in steps]
    axes.set_ylim(min(*rates, low * limits.memory_bytes) / 2, max(limits.matmul_flops.values()) * 3)
    axes.set_xlabel("operational intensity (FLOP/byte); filled: XLA's traffic, hollow: the least")
    axes.set_ylabel("FLOP/s")
    axes.set_title(title, fontsize=10)
    axes.grid(True, which="major", color="0.9")
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def _si(value: float) -> str:
    """A number with a prefix, such as ``118 G``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "
