"""How a data-parallel training step scales: what it sends, counted, and its time.

    python -m benchmarks.training.devices --depth_n=9 --batch_size=128

For 1, 2, 4 and 8 devices: the all-reduces of the compiled full step and their bytes, counted in its
text, and the seconds of a step. On a CPU the devices are virtual ones, each number of them in a
process of its own; they share one processor, so that is a check of the pattern and of its overhead,
not a speed-up. Where JAX finds several GPUs or TPUs, the first of them are timed, which is a
speed-up. What a TPU's own compiler makes of the step: `benchmarks.compilers.chips`.

Time on two CPU cores: half a minute for --depth_n=3, two minutes for ResNet-56.
"""

import contextlib
import functools
import os
from typing import Any

import jax
from absl import flags

from benchmarks.compilers.hlo import collectives
from benchmarks.options import JSON, REPEATS, asked, run
from benchmarks.ours import Ours
from benchmarks.report import Report
from benchmarks.sides import Side
from benchmarks.timing import interleaved

_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices; 1 first.")


def virtual(count: int) -> dict[str, str]:
    """Returns the environment of a process with so many virtual CPU devices."""
    flag = f"--xla_force_host_platform_device_count={count}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"}


def main() -> None:
    """Measures and prints."""
    options = asked()
    counts = [int(count) for count in _DEVICES.value]
    real = jax.default_backend() != "cpu"
    counts = [count for count in counts if count <= jax.device_count() or not real]
    kind = f"{jax.device_count()} x {jax.devices()[0].device_kind}" if real else "virtual devices"
    title = f"{options} over all devices, a full step on some of {kind}"
    with contextlib.ExitStack() as stack, Report(title, JSON.value) as report:
        sides: dict[int, Any] = {}
        for count in counts:  # one after the other, so that they don't compile at once
            if real:
                sides[count] = Ours(options, devices=jax.devices()[:count])
            else:
                side = Side(Ours, options, environment=virtual(count))
                sides[count] = stack.enter_context(side)
            sides[count].compile([options.full])
        runs = {str(n): functools.partial(side.train, [options.full]) for n, side in sides.items()}
        seconds = interleaved(runs, REPEATS.value)
        report.table(
            {"devices": "d", "all-reduces": "d", "other operations": "d", "MB in them": ".3f"}
            | {"seconds": ".3f", "efficiency": ".2f"}
        )
        for count, side in sides.items():
            sent = collectives(side.program())
            all_reduces = sum(each.kind == "all-reduce" for each in sent)
            others, size_mb = len(sent) - all_reduces, sum(each.size_bytes for each in sent) / 1e6
            # Virtual devices share the processor: n of them do the same work in the same time.
            speed_up = seconds[str(counts[0])].per(seconds[str(count)]).median
            efficiency = speed_up * counts[0] / count if real else speed_up
            taken = seconds[str(count)].median, efficiency
            report.row(count, all_reduces, others, size_mb, *taken)
        here = "(devices x time here)" if real else "time here, since they share one processor"
        report.note(f"Medians of {REPEATS.value}. Efficiency: time on {counts[0]} / {here}.")


if __name__ == "__main__":
    run(main, batch_size=128, repeats=7)
