"""A skipped block costs no time: the time of a training step against the number of kept blocks.

    python -m benchmarks.training.depths --depth_n=9 --batch_size=128

Prints, for ResNet-(6n+2), time(k) / time(full) beside the share of the blocks that are kept, and
the largest difference. Under BlockCoML the kept blocks are a fair sample of all. Under CoML they
are the first ones, and on a CPU those cost more than the last: as many operations, on four and
sixteen times as much memory.

--profile=FOLDER also records three full steps with JAX's profiler. XProf then shows their timeline,
on a GPU or TPU what bounds them too: pip install xprof; xprof --logdir=FOLDER.

Time on two CPU cores: one minute for --depth_n=3, five for ResNet-56.
"""

import functools

import jax
from absl import flags

from benchmarks.options import JSON, REPEATS, asked, run
from benchmarks.ours import Ours, rungs
from benchmarks.report import Report
from benchmarks.timing import interleaved

_DEPTHS = flags.DEFINE_integer("depths", 5, "How many of them, evenly spaced.", lower_bound=1)
_PROFILE = flags.DEFINE_string("profile", "", "Folder for a trace of three full steps.")


def main() -> None:
    """Times and prints."""
    options = asked()
    ours = Ours(options)
    title = f"{options}, a step of each of the depths in turn, on {ours.hardware()}"
    with Report(title, JSON.value) as report:
        for scheme in ("blockcoml", "coml"):
            masks = rungs(scheme, options, _DEPTHS.value)
            runs = {name: functools.partial(ours.train, [mask]) for name, mask in masks.items()}
            seconds = interleaved(runs, REPEATS.value)
            *_, full = seconds.values()
            report.table(
                {"configuration": "", "blocks": "d", "share": ".3f", "seconds": ".3f"}
                | {"time / full": ".3f", "difference": "+.3f"}
            )
            differences = []
            for name, mask in masks.items():
                kept, ratio = mask.count(False), seconds[name].per(full).median
                share = kept / options.blocks
                differences.append(abs(ratio - share))
                report.row(name, kept, share, seconds[name].median, ratio, ratio - share)
            report.note(f"largest difference: {max(differences):.3f}; medians of {REPEATS.value}")
        if _PROFILE.value:
            with jax.profiler.trace(_PROFILE.value):
                ours.train([options.full] * 3)
            report.note(f"trace of three full steps: xprof --logdir={_PROFILE.value}")


if __name__ == "__main__":
    run(main, batch_size=128, repeats=7)
