"""Where the time of a step goes, by kind of operation, from a trace of JAX's profiler.

What a trace holds differs by platform:

* CPU: the threads of the host. An operation begins with an event of its name and, since it may go
  on in other threads, ends with one called ``end: NAME``, which carries the same id. Its time is
  from the one to the other. Operations overlap there.
* GPU: a plane a device, a line a stream, an event a kernel, whose ``hlo_op`` names the operation.
  Kernels of a command buffer carry the buffer's name alone, so the step is compiled without these
  for the trace (`TRACE_OPTIONS`): the kernels are the same, the gaps between them are not.
* TPU: a plane a core, and on it the line "XLA Ops", an event an operation.

Only the first was tried; the other two were written from XLA's sources and documentation.
"""

import collections
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Set

import jax

from benchmarks import hlo

# Else a trace on a GPU cannot tell the operations of a command buffer apart.
TRACE_OPTIONS = {"gpu": {"xla_gpu_enable_command_buffer": ""}}
GAP = "nothing in flight (host, gaps)"


@dataclasses.dataclass(frozen=True)
class Interval:
    """One execution of an operation.

    Attributes:
      device: plane and ordinal.
      name: of the HLO instruction; empty where the trace names none of the program's.
      start_ns: when it began.
      end_ns: when it ended.
      complete: False if the trace does not show its end: then the end is that of its first event,
        and what it did afterwards in other threads is nobody's.
    """

    device: str
    name: str
    start_ns: float
    end_ns: float
    complete: bool = True


@dataclasses.dataclass(frozen=True)
class Profile:
    """The time of a step, by kind of operation.

    Attributes:
      step_s: of one step while traced, which takes longer than untraced.
      kinds: kind -> seconds a step, the longest first; they and `GAP` add up to `step_s`.
      operations: (name, seconds a step) of the operations that took longest.
      incomplete: operations a step whose end the trace does not show.
    """

    step_s: float
    kinds: dict[str, float]
    operations: tuple[tuple[str, float], ...]
    incomplete: float


def profile(
    run: Callable[[int], float], program: hlo.Program, steps: int, trace_dir: str = ""
) -> Profile:
    """Returns the time by kind of operation, of some steps taken under the profiler.

    Args:
      run: takes so many steps, and returns the seconds until all are done.
      program: that a step executes.
      steps: to trace.
      trace_dir: of this trace alone, which it keeps for XProf (``*.xplane.pb``) and Perfetto
        (``*.trace.json.gz``); "" keeps none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(trace_dir or scratch)
        known = set(folder.rglob("*.xplane.pb"))
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python's own calls would slow the host down
        run(1)
        with jax.profiler.trace(folder, profiler_options=options):
            seconds = run(steps)
        (found,) = set(folder.rglob("*.xplane.pb")) - known
        intervals = read(jax.profiler.ProfileData.from_file(str(found)), program.name)
    return summarise(intervals, program, seconds, steps)


def read(trace: jax.profiler.ProfileData, module: str) -> list[Interval]:
    """Returns what ran on the devices.

    Args:
      trace: as the profiler left it.
      module: name of the program's module; operations of others have no name in the result.
    """
    planes = list(trace.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    intervals = [interval for plane in devices for interval in _of_device(plane, module)]
    if intervals:
        return intervals
    return [
        each for plane in planes if plane.name == "/host:CPU" for each in _of_cpu(plane, module)
    ]


def _of_device(plane, module: str) -> Iterable[Interval]:
    lines = list(plane.lines)
    streams = [line for line in lines if line.name.startswith("Stream")]
    for line in streams or [line for line in lines if line.name == "XLA Ops"]:
        for event in line.events:
            stats = dict(event.stats)
            # Nested annotations are joined by slashes, the innermost last; a TPU's event is named
            # by the whole instruction: "%fusion.3 = ...".
            name = str(stats.get("hlo_op") or ("" if streams else event.name))
            name = name.split(" = ")[0].split("/")[-1].lstrip("%")
            ours = stats.get("hlo_module", module) == module
            yield Interval(
                plane.name,
                name if ours else "",
                event.start_ns,
                event.start_ns + event.duration_ns,
            )


def _of_cpu(plane, module: str) -> Iterable[Interval]:
    begun, ends = [], {}
    for line in plane.lines:
        if line.name == "python":
            continue
        for event in line.events:
            if event.name.startswith("end: "):
                ends[dict(event.stats).get("_c")] = event.start_ns
            elif "hlo_op" in (stats := dict(event.stats)):
                begun.append((event.start_ns, event.duration_ns, stats))
    for start, duration, stats in begun:
        name = str(stats["hlo_op"]) if stats.get("hlo_module", module) == module else ""
        end = ends.get(stats.get("_p"))
        device = f"{plane.name} {stats.get('device_ordinal', 0)}"
        yield Interval(device, name, start, end or start + duration, end is not None)


def attribute(
    intervals: Iterable[Interval], containers: Set[str] = frozenset()
) -> dict[str, float]:
    """Returns the seconds of each operation's name, on one device.

    The time during which several are in flight is shared equally among them, so that the sum is
    the time during which anything was. A loop or call gets only what none of its own operations
    accounts for.

    Args:
      intervals: of one device.
      containers: names of operations that only run others.
    """
    changes = []
    for number, each in enumerate(intervals):
        if each.end_ns > each.start_ns:
            changes += [(each.start_ns, number, each.name), (each.end_ns, number, each.name)]
    seconds: dict[str, float] = collections.defaultdict(float)
    inner: dict[int, str] = {}
    outer: dict[int, str] = {}
    last = 0.0
    for now, number, name in sorted(changes):
        active = inner or outer
        for running in active.values():
            seconds[running] += (now - last) / len(active) / 1e9
        group = outer if name in containers else inner
        if group.pop(number, None) is None:
            group[number] = name
        last = now
    return dict(seconds)


def summarise(
    intervals: list[Interval], program: hlo.Program, seconds: float, steps: int
) -> Profile:
    """Returns the time by kind of operation, the mean of the devices.

    Args:
      intervals: of all devices, of all the steps.
      program: that a step executes.
      seconds: that the steps took together.
      steps: that were traced.
    """
    by_device: dict[str, list[Interval]] = collections.defaultdict(list)
    for interval in intervals:
        by_device[interval.device].append(interval)
    share = steps * max(1, len(by_device))
    operations: dict[str, float] = collections.defaultdict(float)
    for of_one in by_device.values():
        for name, taken in attribute(of_one, program.containers()).items():
            operations[name] += taken / share
    kinds = by_kind(operations, program.kinds())
    kinds[GAP] = max(0.0, seconds / steps - sum(operations.values()))
    longest = sorted(operations.items(), key=lambda item: -item[1])
    incomplete = sum(not interval.complete for interval in intervals) / share
    return Profile(seconds / steps, kinds, tuple(longest[:5]), incomplete)


def by_kind(operations: Mapping[str, float], kinds: Mapping[str, str]) -> dict[str, float]:
    """Returns the seconds of each kind, the longest first; of other names: `hlo.UNKNOWN`."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for name, taken in operations.items():
        seconds[kinds.get(name, hlo.UNKNOWN)] += taken
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
