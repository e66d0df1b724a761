"""What the compiler of a TPU or GPU makes of the training step, for chips that are not there.

    pip install libtpu
    python -m benchmarks.topology --topology=v5e:4x4 --depth_n=18 --batch_size=128
    pip install 'jax[cuda12]'
    python -m benchmarks.topology --topology=h100 --depth_n=18 --batch_size=124

Compiles the full step ahead of time on this machine, unrolled and with scanned stages
(``config.run.scan_stages``), and prints what the compiled program says of itself: the seconds that
compiling took (on this processor: their ratio is what counts), its size, temporary memory, what it
moves to and from memory, how many cycles TPU's compiler expects of it, what it launches (fusions,
convolutions, copies: on a GPU about so many kernels, each of which takes some microseconds at
least), and what it sends between the chips. ``--at_once=5`` compiles the step of five seeds.
Nothing runs, and no accelerator is needed; on a machine that has a TPU, its compiler is busy with
that.

In a scanned program XLA counts a loop's body once, however often it turns: its bytes moved, cycles,
and operations between chips within a loop, are then too few to compare, and are marked so. XLA's
compiler for GPUs tells neither its code's size, nor bytes, nor cycles; and it takes the first
algorithm of cuDNN for a convolution where, with a GPU, it would try several, which takes time too.

Time on two CPU cores: for a TPU half a minute for --depth_n=3, a minute and a half for ResNet-110;
for a GPU a quarter of a minute and half a minute.
"""

import importlib.util
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags

from benchmarks import hlo
from benchmarks.collectives import collectives
from benchmarks.device_steps import compile_step, summary
from benchmarks.gpu_targets import GPUS
from benchmarks.machine import machine
from benchmarks.ours import make_experiment
from benchmarks.sizes import AT_ONCE, BATCH_SIZE, DEPTH_N, PRECISION, WAYS
from benchmarks.work import Options

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "v5e:4x4",
    f"Kind and shape of a TPU slice; or a GPU of {', '.join(GPUS)}, with how many: h100:8.",
)
_CHIPS = flags.DEFINE_integer("chips", 0, "Only so many of its chips; 0: all.", 0)

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_EXAMPLES = 50_000  # as CIFAR's: a program that moved all images would show it


def topology_devices(name: str) -> Sequence[jax.Device]:
    """Returns the chips of a slice, or the GPUs of a host, to compile for.

    Args:
      name: such as "v5e:4x4", "h100" or "h100:8".

    Raises:
      RuntimeError: the platform's compiler is not installed, or knows no such slice; names it.
    """
    kind, _, shape = name.partition(":")
    module, package = ("jax_plugins", "'jax[cuda12]'") if kind in GPUS else ("libtpu", "libtpu")
    if importlib.util.find_spec(module) is None:
        raise RuntimeError(f"--topology={name} wants a compiler: pip install {package}")
    # There is no TPU machine to ask, and no chip to hold.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    try:
        if kind in GPUS:
            on_host = f"1x1x{int(shape or 1)}"  # slices, hosts of each, GPUs of each
            return topologies.get_topology_desc(
                platform="cuda", target_config=GPUS[kind].config(), topology=on_host
            ).devices
        return topologies.get_topology_desc(name, "tpu").devices
    except Exception as error:
        raise RuntimeError(
            f"no compiler here knows --topology={name}, such as v5e:4x4 or h100: {error}"
        ) from error


def compiled_for(
    devices: Sequence[jax.Device], options: Options, *, scan_stages: bool, seeds: int = 1
) -> dict[str, Any]:
    """Returns what the compiled full step says of itself.

    Args:
      devices: to compile for; they need not be there.
      options: the size of the work.
      scan_stages: whether the stages are loops.
      seeds: how many runs take the step at once.

    Returns:
      "compile_s": tracing included; "code_bytes", "temporary_bytes", "moved_bytes", "cycles" (that
      TPU's compiler expects) of the program, 0 where it does not say; "launches": operations that a
      step launches, those of a loop as often as it turns; and `device_steps.summary` of what it
      sends.
    """
    experiment = make_experiment(options, {"run.scan_stages": scan_stages, "policy.seed": 0})
    started = time.perf_counter()
    mask = experiment.ladder.full.skip_mask
    compiled = compile_step(experiment, mask, devices, seeds=seeds)
    seconds = time.perf_counter() - started
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    text = compiled.as_text() or ""
    return summary(collectives(text)) | {
        "compile_s": seconds,
        "launches": hlo.parse(text).launches(),
        "code_bytes": memory.generated_code_size_in_bytes if memory else 0,
        "temporary_bytes": memory.temp_size_in_bytes if memory else 0,
        "moved_bytes": max(0.0, costs.get("bytes accessed", 0.0)),
        "cycles": sum(int(cycles) for cycles in _CYCLES.findall(text)),
    }


def main(argv: list[str]) -> None:
    """Compiles and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    jax.config.update("jax_platforms", "cpu")  # of what does run here, such as shapes
    try:
        devices = topology_devices(_TOPOLOGY.value)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    devices = devices[: _CHIPS.value or len(devices)]
    options = Options(DEPTH_N.value, BATCH_SIZE.value, PRECISION.value, examples=_EXAMPLES)
    at_once = f", {AT_ONCE.value} seeds at once" if AT_ONCE.value > 1 else ""
    print(
        f"Compiled, not run: ResNet-{6 * options.depth_n + 2}, batch {options.batch_size}, "
        f"{options.precision}{at_once}, for {len(devices)} x {devices[0].device_kind} "
        f"({_TOPOLOGY.value})"
    )
    print(f"{machine('jax', 'libtpu', 'jax-cuda12-plugin', 'nvidia-cudnn-cu12', 'flax')}\n")
    columns = ("compiling, s", "code MB", "temporary MB", "GB moved", "million cycles", "launches")
    print(f"| stages | {' | '.join(columns)} | sent: operations | MB |")
    print(f"| --- |{' ---: |' * (len(columns) + 2)}")
    for way in WAYS.value:
        found = compiled_for(devices, options, scan_stages=way == "scanned", seeds=AT_ONCE.value)
        code, moved, cycles = (found[key] for key in ("code_bytes", "moved_bytes", "cycles"))
        whole = way == "unrolled"
        cells = (
            f"{found['compile_s']:.0f}",
            f"{code / 1e6:.0f}" if code else "-",
            f"{found['temporary_bytes'] / 1e6:.0f}",
            _told(moved / 1e9, whole=whole),
            _told(cycles / 1e6, whole=whole),
            f"{found['launches']:,}",
            str(found["operations"]),
            f"{found['size_bytes'] / 1e6:.3f}",
        )
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def _told(value: float, *, whole: bool) -> str:
    """A number of the program's; "-" where the compiler did not say."""
    if not value:
        return "-"
    return f"{value:.3f}" if whole else "(one turn a loop)"


if __name__ == "__main__":
    flags.set_default(BATCH_SIZE, 128)
    app.run(main)
