"""How a data-parallel training step scales: what it sends, counted; its time; a slice, estimated.

    python -m benchmarks.scaling --depth_n=9 --batch_size=128

Prints two tables. (1) For 1, 2, 4 and 8 virtual CPU devices, each number in a process of its own:
the all-reduces and bytes of the compiled step, counted in its text, and the seconds of a step.
Virtual devices share one processor, so that is a check of the pattern and of its overhead, not a
speed-up. Where JAX finds several GPUs or TPUs, subsets of them are timed instead, which is a
speed-up. (2) An estimate for a slice of TPU chips by arithmetic alone, from the constants in the
flags: see `benchmarks.scaling_estimate`. What TPU's own compiler makes of the step:
`benchmarks.topology`.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags

from accordion_jax import training
from accordion_jax.depth import full_or_uniform
from accordion_jax.models.costs import unit_costs
from benchmarks import device_steps
from benchmarks.machine import machine
from benchmarks.ours import make_experiment
from benchmarks.scaling_estimate import Slice, Work, estimate
from benchmarks.sizes import BATCH_SIZE, DEPTH_N, REPEATS
from benchmarks.timing import interleaved, median_ratio
from benchmarks.work import IMAGE_SHAPE, Options

# --cross_replica_batch_norm is `device_steps`'.
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices; 1 first.")
_ESTIMATE_N = flags.DEFINE_integer("estimate_depth_n", 18, "n of the network in the estimate.", 1)
_BATCHES = flags.DEFINE_list("estimate_batch_sizes", ["128", "2048"], "Of the estimate.")
_SIDES = flags.DEFINE_list("sides", ["4", "4"], "Chips along each axis of the slice.")
_PEAK = flags.DEFINE_float("peak_tflops", 197.0, "TFLOP/s a chip, bfloat16 products.", 0)
_HBM = flags.DEFINE_float("hbm_gb_per_s", 819.0, "GB/s a chip.", 0)
_ICI = flags.DEFINE_float("ici_gbit_per_s", 1600.0, "Gbit/s that a chip sends, all ports.", 0)
_SHARE = flags.DEFINE_float("ici_share", 0.5, "Of that, used by an all-reduce.", 0, 1)
_HOP = flags.DEFINE_float("hop_us", 1.0, "Microseconds from chip to chip; an assumption.", 0)
# 16, 32 and 64 channels fill 1/8, 1/4 and 1/2 of a matrix unit 128 wide: at best 0.21 of the peak.
_UTILISATION = flags.DEFINE_float(
    "utilisation", 0.1, "Share of the peak that convolutions reach; an assumption.", 0, 1
)


class VirtualDevices:
    """The step on some virtual CPU devices, in a process of its own."""

    def __init__(self, devices: int, *arguments: str):
        """Starts the process; `facts` says what it compiled."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={devices}",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.device_steps", *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts: dict[str, Any] = {}

    def read(self) -> Any:
        """Returns what the process says next.

        Raises:
          RuntimeError: it ended instead; what it wrote to standard error says why.
        """
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(
                f"{' '.join(map(str, self._process.args))} ended with status "  # type: ignore[arg-type]
                f"{self._process.wait()}; its error is above"
            )
        return json.loads(line)

    def take(self) -> float:
        """Takes a step; returns its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def _child_arguments() -> tuple[str, ...]:
    return (
        f"--depth_n={DEPTH_N.value}",
        f"--batch_size={BATCH_SIZE.value}",
        f"--cross_replica_batch_norm={flags.FLAGS.cross_replica_batch_norm}",
    )


@contextlib.contextmanager
def _sides(counts: list[int]) -> Iterator[dict[int, tuple[dict[str, Any], Callable[[], float]]]]:
    """Gives number of devices -> (what was compiled, function that takes a step)."""
    if jax.default_backend() != "cpu":
        experiment = device_steps.experiment_of(
            DEPTH_N.value,
            BATCH_SIZE.value,
            cross_replica=flags.FLAGS.cross_replica_batch_norm,
        )
        sides = {n: device_steps.DeviceSteps(experiment, jax.devices()[:n]) for n in counts}
        yield {n: (device_steps.summary(s.collectives), s.take) for n, s in sides.items()}
        return
    children: dict[int, VirtualDevices] = {}
    try:
        for n in counts:  # one after the other, so that they don't compile at once
            children[n] = VirtualDevices(n, *_child_arguments())
            children[n].facts = children[n].read()
        yield {n: (child.facts, child.take) for n, child in children.items()}
    finally:
        for child in children.values():
            child.close()


def measured() -> list[str]:
    """Returns the table of what was counted and timed."""
    counts = [int(n) for n in _DEVICES.value]
    present = jax.device_count()
    virtual = jax.default_backend() == "cpu"
    if not virtual:
        counts = [n for n in counts if n <= present]
    kind = "virtual CPU devices" if virtual else f"of {present} x {jax.devices()[0].device_kind}"
    lines = [
        f"## Counted and measured: {kind}, batch {BATCH_SIZE.value} over all of them",
        "",
        "| devices | all-reduces | other operations | MB in them | seconds | efficiency |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with _sides(counts) as sides:
        seconds = interleaved({str(n): take for n, (_, take) in sides.items()}, REPEATS.value)
        for n, (facts, _) in sides.items():
            ratio = median_ratio(seconds[str(counts[0])], seconds[str(n)])
            # Virtual devices share the processor: n of them do the same work in the same time.
            efficiency = ratio if virtual else ratio * counts[0] / n
            cells = (
                f"{facts['all_reduces']} | {facts['operations'] - facts['all_reduces']} | "
                f"{facts['size_bytes'] / 1e6:.3f} | {np.median(seconds[str(n)]):.3f}"
            )
            lines.append(f"| {n} | {cells} | {efficiency:.2f} |")
    lines += ["", f"Seconds: medians of {REPEATS.value} steps taken in turn."]
    if virtual:
        lines.append(
            "Efficiency: time on one device / time here. The devices share one processor, so 1 "
            "means that sharing the batch costs nothing; it is no speed-up. On one device the "
            "all-reduce has one member, and nothing crosses."
        )
    else:
        lines.append("Efficiency: time on one device / (devices x time here), the same batch.")
    return lines


def works_of(experiment: training.Experiment) -> list[Work]:
    """Returns what a step of each configuration does, the base alone first."""
    model, shapes = experiment.model, experiment.shapes
    height, width, _ = IMAGE_SHAPE
    of_stage = [(height >> i) * (width >> i) * c for i, c in enumerate(model.channels)]
    of_block = [2 * of_stage[i] for i, size in enumerate(model.stage_sizes) for _ in range(size)]
    base, blocks = unit_costs(model, shapes.variables, IMAGE_SHAPE)
    works = []
    for configuration in experiment.ladder:
        cost = sum((blocks[i] for i in configuration.blocks), base)
        kept = shapes.keep(experiment.units(configuration.skip_mask))
        works.append(
            Work(
                macs=cost.macs,
                features=of_stage[0] + sum(of_block[i] for i in configuration.blocks),
                parameters=cost.parameters,
                averaged_bytes=cost.size_bytes + 2 * 4,  # loss and error
                averaged_arrays=len(jax.tree.leaves((kept.params, kept.batch_stats))) + 2,
            )
        )
    return works


def estimated() -> list[str]:
    """Returns the table for a slice of chips."""
    chips = Slice(
        sides=tuple(int(side) for side in _SIDES.value),
        peak_flops=_PEAK.value * 1e12,
        hbm_bytes_per_s=_HBM.value * 1e9,
        ici_bytes_per_s=_ICI.value * 1e9 / 8,
        ici_share=_SHARE.value,
        hop_s=_HOP.value * 1e-6,
        utilisation=_UTILISATION.value,
    )
    experiment = make_experiment(Options(_ESTIMATE_N.value, examples=128))
    works, ladder = works_of(experiment), experiment.ladder
    policy = full_or_uniform(ladder, 0.5)
    mean_depth = policy.expectation([configuration.depth for configuration in ladder])
    drawn = {
        f"all {ladder.full.depth} blocks": [(1.0, works[-1])],
        f"CoML-05 ({mean_depth:.1f} blocks on average)": list(
            zip(policy.probabilities, works, strict=True)
        ),
    }
    lines = [
        f"## Estimated, not measured: ResNet-{6 * _ESTIMATE_N.value + 2} on "
        f"{' x '.join(_SIDES.value)} TPU v5e chips",
        "",
        "| step | batch | arithmetic ms | memory ms | all-reduce ms | step ms | efficiency |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, works_drawn in drawn.items():
        for batch in map(int, _BATCHES.value):
            found = estimate(works_drawn, batch, chips)
            terms = (
                found.times.arithmetic_s,
                found.times.memory_s,
                found.times.communication_s,
                found.step_s,
            )
            cells = " | ".join(f"{term * 1e3:.3f}" for term in terms)
            lines.append(f"| {name} | {batch} | {cells} | {found.efficiency:.2f} |")
    lines += [
        "",
        f"Assumed: {chips.peak_flops / 1e12:g} TFLOP/s at {chips.utilisation:.0%}, "
        f"{chips.hbm_bytes_per_s / 1e9:g} GB/s of memory, {chips.ici_bytes_per_s / 1e9:g} GB/s of "
        f"interconnect at {chips.ici_share:.0%}, {chips.hop_s * 1e6:g} us a hop; a step is the "
        "longer of arithmetic and memory, then the all-reduce; float32 features; no fixed cost of "
        "a kernel, no padding to the chip's tiles. Efficiency: one chip with the whole batch / "
        "(chips x step). The all-reduce carries parameters, running statistics and two metrics, as "
        "the compiled step does.",
    ]
    return lines


def main(_argv: list[str]) -> None:
    """Measures, estimates, prints."""
    print(f"# ResNet-{6 * DEPTH_N.value + 2}: a step shared by several devices\n")
    print(machine("jax", "jaxlib", "flax"), end="\n\n", flush=True)
    print("\n".join(measured()), end="\n\n", flush=True)
    print("\n".join(estimated()))


if __name__ == "__main__":
    flags.set_default(BATCH_SIZE, 128)
    flags.set_default(REPEATS, 7)
    app.run(main)
