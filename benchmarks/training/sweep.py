"""What a sweep costs: all truncations in one pass, against full depth alone and one by one.

    python -m benchmarks.training.sweep --depth_n=18 --sweep_examples=1000

Prints the ratio of the one-pass sweep of every prefix of ResNet-(6n+2) to one evaluation of the
full network on the same images, and to evaluating each truncation on its own (timed at every
`--every`-th depth and summed over all by linear interpolation).

Time on two CPU cores: half a minute for --depth_n=3, four minutes for ResNet-110.
"""

import numpy as np
from absl import flags

from benchmarks.options import BATCH_SIZE, JSON, REPEATS, asked, run
from benchmarks.ours import Ours
from benchmarks.report import Report
from benchmarks.timing import interleaved

_EVERY = flags.DEFINE_integer("every", 9, "Depths to time one by one; 0: none.", 0)


def main() -> None:
    """Times and prints."""
    options = asked(sweep_batch_size=BATCH_SIZE.value)
    ours = Ours(options)
    truncations = options.blocks + 1
    depths = range(0, truncations, _EVERY.value) if _EVERY.value else range(0)
    runs = {"one pass": ours.sweep, "full depth": ours.sweep_of([options.full])}
    runs |= {f"depth {depth}": ours.sweep_of([options.mask(depth)]) for depth in depths}
    title = f"{options}: sweeps of {options.sweep_examples} images on {ours.hardware()}"
    with Report(title, JSON.value) as report:
        seconds = interleaved(runs, REPEATS.value)
        one_pass, full = seconds["one pass"], seconds["full depth"]
        report.table({"": "", "seconds": ".2f", "one pass / this": ".3f"})
        report.row("one evaluation of the full depth", full.median, one_pass.per(full))
        report.row(f"all {truncations} truncations in one pass", one_pass.median, None)
        if depths:
            known = [seconds[f"depth {depth}"].median for depth in depths]
            total = float(np.interp(range(truncations), list(depths), known).sum())
            report.row(f"the {truncations} one by one", total, one_pass.median / total)


if __name__ == "__main__":
    run(main, depth_n=18, batch_size=250)
