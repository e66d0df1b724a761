"""What bounds a training step: arithmetic, memory traffic, launches, or none of them.

    python -m benchmarks.roofline --depth_n=9 --batch_size=124 [--precision=bfloat16]
        [--trace_dir=DIR] [--picture=roofline.png]

In one run on the device at hand (CPU, GPU or TPU): measures the machine's limits; measures the
steps of the full network and of its first half; counts their arithmetic, traffic and launched
operations; says how much of the time each limit explains, and names the bound; and takes a step
apart with JAX's profiler. It was run on CPU only: for GPU and TPU the reading of the trace is
written from documentation (see `step_profile`), and on a GPU XLA's counts leave out what its custom
calls do inside.

Everything is of one device: its share of the batch, its limits. Virtual devices of one CPU share
these, so shares of the limits mean little there. On a CPU "memory" is what lies outside all caches;
where features of a layer stay in the last level, traffic is served faster than that.

Time on two CPU cores: a minute for --depth_n=3, three for --depth_n=9.
"""

import pathlib
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import hlo, limits, step_profile
from benchmarks.machine import machine
from benchmarks.ours import Ours
from benchmarks.roofline_picture import draw_roofline
from benchmarks.sizes import BATCH_SIZE, DEPTH_N, PRECISION, REPEATS, STEPS
from benchmarks.step_bound import Step, bound, least_bytes, step_flops
from benchmarks.timing import interleaved
from benchmarks.work import IMAGE_SHAPE, Options

_PICTURE = flags.DEFINE_string("picture", "", "Also draws the roofline to this file.")
_TRACE_DIR = flags.DEFINE_string("trace_dir", "", "Keeps the profiler's traces here.")
_LARGE_MB = flags.DEFINE_integer(
    "large_mb", 1024, "Of each array of the memory test: beyond all caches.", lower_bound=1
)


def measure_steps(ours: Ours, depths: tuple[int, ...], repeats: int, steps: int) -> list[Step]:
    """Returns the steps of some depths, measured in turn.

    Args:
      ours: the work.
      depths: blocks kept.
      repeats: measurements of each, of which the median counts.
      steps: of a measurement, one dispatched after the other.
    """
    ours.compile(depths)
    runs = {str(depth): _take(ours, depth, steps) for depth in depths}
    seconds = interleaved(runs, repeats)
    return [
        _step(ours, depth, statistics.median(seconds[str(depth)]) / steps, steps)
        for depth in depths
    ]


def _compiled(ours: Ours, depth: int) -> jax.stages.Compiled:
    return ours.variants(ours.options.mask(depth))  # type: ignore[return-value]


def _take(ours: Ours, depth: int, steps: int):
    return lambda: ours.train([depth] * steps)


def _step(ours: Ours, depth: int, seconds: float, steps: int) -> Step:
    options, experiment = ours.options, ours.experiment
    mask = options.mask(depth)
    units, images = experiment.units(mask), options.batch_size // jax.device_count()
    compiled = _compiled(ours, depth)
    costs = compiled.cost_analysis() or {}
    kept = ours.state.keep(units)
    # The arrays of `state` have an axis of devices in front.
    parameters = sum(leaf.size for leaf in jax.tree.leaves(kept.params)) // jax.device_count()
    shape = (experiment.model, units, IMAGE_SHAPE, images)

    calls = []
    for _ in range(3):
        started = time.perf_counter()
        metrics = ours.start(mask)
        calls.append(time.perf_counter() - started)
        jax.block_until_ready((ours.state, metrics))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ours.train([depth] * steps)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return Step(
        f"{depth} block{'s' * (depth != 1)}",
        images,
        seconds,
        step_flops(*shape),
        max(0.0, costs.get("flops", 0.0)),
        max(0.0, costs.get("bytes accessed", 0.0)),
        least_bytes(*shape, jnp.dtype(options.precision).itemsize, parameters),
        hlo.parse(compiled.as_text()).launches(),
        statistics.median(calls),
        faults / steps,
    )


def profile_step(ours: Ours, depth: int, steps: int, trace_dir: str) -> step_profile.Profile:
    """Returns the time of a step by kind of operation.

    Args:
      ours: the work; on a GPU one compiled with `step_profile.TRACE_OPTIONS`.
      depth: blocks kept.
      steps: to trace.
      trace_dir: keeps the trace in a folder here; "" keeps none.
    """
    program = hlo.parse(_compiled(ours, depth).as_text())
    # A folder each: the profiler names its own by the second, so two traces could become one.
    folder = str(pathlib.Path(trace_dir) / f"{depth}_blocks") if trace_dir else ""
    return step_profile.profile(lambda n: ours.train([depth] * n), program, steps, folder)


def _to_trace(ours: Ours, depths: tuple[int, ...], platform: str) -> Ours:
    """The same work, compiled so that a trace tells its operations apart."""
    extra = step_profile.TRACE_OPTIONS.get(platform)
    if not extra:
        return ours
    try:
        apart = Ours(ours.options, compiler_options=extra)
        apart.compile(depths)
    except jax.errors.JaxRuntimeError as error:
        print(f"\nXLA refuses {extra} ({error}); what the trace cannot tell is not attributed")
        return ours
    return apart


def limits_table(found: limits.Limits, large_mb: int) -> str:
    """Returns the machine's limits as a table."""
    size = f"{found.cache_size_bytes / 1e6:.3g} MB"
    rows = [
        (f"matrix product, {name}", f"{flops / 1e9:.4g} GFLOP/s")
        for name, flops in found.matmul_flops.items()
    ]
    rows += [
        (f"memory, arrays of {large_mb} MiB", f"{found.memory_bytes / 1e9:.4g} GB/s"),
        (f"an array of {size}, again and again", f"{found.cache_bytes / 1e9:.4g} GB/s"),
        ("one more operation in a program", f"{found.operation_s * 1e6:.3g} us"),
        ("one more dispatch of a program", f"{found.dispatch_s * 1e6:.3g} us"),
    ]
    return _table(["limit", "measured"], rows)


def steps_table(steps: list[Step], found: limits.Limits, precision: str) -> str:
    """Returns what the steps do, and what each limit alone explains, as a table."""
    peak = found.matmul_flops[precision]
    rows = {
        "measured, ms (median)": lambda s: f"{s.seconds * 1e3:.4g}",
        "images/s": lambda s: f"{s.images / s.seconds:.4g}",
        "GFLOP, 6 x MACs x images": lambda s: f"{s.flops / 1e9:.4g}",
        "GFLOP, XLA's count": lambda s: f"{s.xla_flops / 1e9:.4g}" if s.xla_flops else "none",
        "share of peak FLOP/s": lambda s: f"{s.flops / s.seconds / peak:.1%}",
        "GB moved, XLA's count": lambda s: f"{s.xla_bytes / 1e9:.4g}" if s.xla_bytes else "none",
        "GB moved, at the least": lambda s: f"{s.least_bytes / 1e9:.4g}",
        "operations launched": lambda s: f"{s.launches}",
        "the call returns after, ms": lambda s: f"{s.call_s * 1e3:.3g}",
        "page faults": lambda s: f"{s.page_faults:.0f}",
    }
    table = [(name, *(text(step) for step in steps)) for name, text in rows.items()]
    alone = [step.alone(found, precision) for step in steps]
    for limit in alone[0]:
        cells = (
            f"{each[limit] * 1e3:.4g} ({each[limit] / step.seconds:.1%})"
            for each, step in zip(alone, steps, strict=True)
        )
        table.append((f"{limit} alone, ms (share)", *cells))
    least = [step.least_bytes / found.memory_bytes for step in steps]
    cells = (f"{t * 1e3:.4g} ({t / s.seconds:.1%})" for t, s in zip(least, steps, strict=True))
    table.append(("the least traffic alone, ms (share)", *cells))
    return _table(["a step of one device", *(step.name for step in steps)], table)


def profile_table(profiles: dict[str, step_profile.Profile]) -> str:
    """Returns where the time of traced steps goes, as a table."""
    rows = []
    for kind in (*hlo.KINDS, step_profile.GAP):
        taken = [(each.kinds.get(kind, 0.0), each.step_s) for each in profiles.values()]
        if any(seconds for seconds, _ in taken):
            rows.append((kind, *(f"{s * 1e3:.4g} ({s / step:.1%})" for s, step in taken)))
    rows.append(("a step, traced", *(f"{each.step_s * 1e3:.4g}" for each in profiles.values())))
    return _table(["ms a step (share)", *profiles], rows)


def _table(header: list[str], rows) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str]) -> None:
    """Measures, prints, draws."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    precision = PRECISION.value
    options = Options(DEPTH_N.value, BATCH_SIZE.value, precision, examples=4 * BATCH_SIZE.value)
    depths = (options.blocks, options.blocks // 2)
    device, count = jax.devices()[0], jax.device_count()
    title = f"ResNet-{6 * DEPTH_N.value + 2}, batch {BATCH_SIZE.value}, {precision}"
    print(f"{title}, {count} x {device.device_kind} ({device.platform})")
    print(machine("jax", "jaxlib", "flax"), flush=True)

    ours = Ours(options)
    model = ours.experiment.model
    features = BATCH_SIZE.value // count * int(np.prod(IMAGE_SHAPE[:2])) * model.channels[0]
    found = limits.measure(
        large_bytes=_LARGE_MB.value << 20,
        cache_size_bytes=features * jnp.dtype(precision).itemsize,
    )
    print(f"\n{limits_table(found, _LARGE_MB.value)}", flush=True)
    steps = measure_steps(ours, depths, REPEATS.value, STEPS.value)
    print(f"\n{steps_table(steps, found, precision)}", flush=True)

    traced = _to_trace(ours, depths, device.platform)
    profiles = {
        step.name: profile_step(traced, depth, STEPS.value, _TRACE_DIR.value)
        for step, depth in zip(steps, depths, strict=True)
    }
    print(f"\n{profile_table(profiles)}")
    for name, each in profiles.items():
        longest = ", ".join(f"{op or '?'} {s * 1e3:.3g} ms" for op, s in each.operations)
        print(f"longest operations, {name}: {longest}")
        if each.incomplete:
            print(
                f"{name}: the trace lacks the end of {each.incomplete:.2g} operations a step; what "
                "they did after their first event counts to others or to none"
            )
    print()
    for step in steps:
        each = profiles[step.name]
        taken, kind = max((taken, kind) for kind, taken in each.kinds.items())
        longest = f"{kind} ({taken / each.step_s:.0%})"
        print(f"{step.name}: {bound(step.alone(found, precision), step.seconds, longest)}")
    if _TRACE_DIR.value:
        print(f"traces: {_TRACE_DIR.value} (for XProf; the *.trace.json.gz in them for Perfetto)")
    if _PICTURE.value:
        draw_roofline(_PICTURE.value, found, precision, steps, f"{title}, {device.device_kind}")
        print(f"picture: {_PICTURE.value}")


if __name__ == "__main__":
    flags.set_default(STEPS, 3)
    flags.set_default(REPEATS, 7)
    app.run(main)
