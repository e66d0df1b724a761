"""What the compiler of a TPU or GPU makes of the training step, for chips that are not there.

    pip install libtpu
    python -m benchmarks.compilers.chips --topology=v5e:4x4 --depth_n=18 --batch_size=128
    pip install 'jax[cuda12]'
    python -m benchmarks.compilers.chips --topology=h100 --depth_n=18 --batch_size=124

Compiles the full step on this machine, unrolled and with scanned stages
(``config.run.scan_stages``), and prints the seconds that took (on this processor: their ratio is
what counts), the temporary memory, what the program launches (on a GPU about so many kernels, each
of which takes some microseconds at least), how many cycles a TPU's compiler expects of it (not in
loops; XLA's for GPUs does not say), and what it sends between the chips. ``--at_once=5`` compiles
the step of five seeds. Nothing runs; on a machine that has a TPU, its compiler is busy with that.
XLA's compiler for GPUs takes the first algorithm of cuDNN for a convolution where, with a GPU, it
would try several, which takes time too.

Time on two CPU cores: for a TPU half a minute for --depth_n=3, a minute and a half for ResNet-110;
for a GPU a quarter of a minute and half a minute.
"""

import importlib.util
import os
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import flags

from accordion_jax.system.command import CommandError
from benchmarks.compilers import hlo
from benchmarks.compilers.gpus import GPUS
from benchmarks.options import AT_ONCE, JSON, WAYS, asked, run
from benchmarks.ours import compile_step, make_experiment
from benchmarks.report import Report
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
      CommandError: the platform's compiler is not installed, or knows no such slice; names it.
    """
    kind, _, shape = name.partition(":")
    module, package = ("jax_plugins", "'jax[cuda12]'") if kind in GPUS else ("libtpu", "libtpu")
    if importlib.util.find_spec(module) is None:
        raise CommandError(f"--topology={name} wants a compiler: pip install {package}")
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
        raise CommandError(
            f"no compiler here knows --topology={name}, such as v5e:4x4 or h100: {error}"
        ) from error


class Compiled(NamedTuple):
    """What a compiled step says of itself."""

    compile_s: float  # tracing included
    temporary_bytes: int
    launches: int  # those of a loop as often as it turns
    cycles: int  # that a TPU's compiler expects, those of a loop once; 0 where it does not say
    sent: list[hlo.Collective]


def compiled_for(
    devices: Sequence[jax.Device], options: Options, *, scan_stages: bool, seeds: int = 1
) -> Compiled:
    """Returns what the full step, compiled for these devices, says of itself.

    Args:
      devices: need not be there.
      options: the size of the work.
      scan_stages: whether the stages are loops.
      seeds: how many runs take the step at once.
    """
    experiment = make_experiment(options, {"run.scan_stages": scan_stages, "policy.seed": 0})
    started = time.perf_counter()
    compiled = compile_step(experiment, options.full, devices, range(seeds))
    seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    temporary, cycles = memory.temp_size_in_bytes if memory else 0, _CYCLES.findall(text)
    return Compiled(
        *(seconds, temporary, hlo.launches(text), sum(map(int, cycles)), hlo.collectives(text))
    )


def main() -> None:
    """Compiles and prints."""
    jax.config.update("jax_platforms", "cpu")  # of what does run here, such as shapes
    devices = topology_devices(_TOPOLOGY.value)
    devices = devices[: _CHIPS.value or len(devices)]
    options = asked(_EXAMPLES)
    chips = f"{len(devices)} x {devices[0].device_kind} ({_TOPOLOGY.value})"
    title = f"Compiled, not run: {options}, {AT_ONCE.value} seed(s) at once, for {chips}"
    with Report(title, JSON.value) as report:
        report.table(
            {"stages": "", "compiling, s": ".0f", "temporary MB": ".0f", "launches": ",d"}
            | {"million cycles": ".3f", "sent: operations": "d", "MB": ".3f"}
        )
        for way in WAYS.value:
            scan = way == "scanned"
            found = compiled_for(devices, options, scan_stages=scan, seeds=AT_ONCE.value)
            report.row(
                *(way, found.compile_s, found.temporary_bytes / 1e6, found.launches),
                *(None if scan else found.cycles / 1e6 or None, len(found.sent)),
                sum(each.size_bytes for each in found.sent) / 1e6,
            )


if __name__ == "__main__":
    run(main, batch_size=128)
