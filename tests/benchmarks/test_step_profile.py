"""The time of overlapping operations is shared, none is counted twice, and none is invented."""

from types import SimpleNamespace

import pytest

from benchmarks import hlo, step_profile
from benchmarks.step_profile import Interval

TEXT = """HloModule jit__fun

%body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %turn = f32[8]{0} copy(%p)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %dot.1 = f32[8]{0} dot(%x, %x)
  ROOT %loop = f32[8]{0} while(%x), condition=%body, body=%body
}
"""


def seconds(value):
    return pytest.approx(value * 1e-9)


def of(*rows, device="d"):
    return [Interval(device, name, start, end) for name, start, end in rows]


def test_overlapping_operations_share_the_time_and_gaps_are_nobodys():
    found = step_profile.attribute(of(("a", 0, 10), ("b", 4, 8), ("a", 20, 21), ("c", 30, 30)))
    assert found == {"a": seconds(4 + 2 + 2 + 1), "b": seconds(2)}


def test_a_loop_gets_only_what_its_operations_leave():
    rows = of(("loop", 0, 100), ("turn", 10, 30), ("turn", 40, 90))
    found = step_profile.attribute(rows, {"loop"})
    assert found == {"loop": seconds(30), "turn": seconds(70)}


def test_kinds_and_gaps_add_up_to_the_step():
    program = hlo.parse(TEXT)
    intervals = [
        *of(("dot.1", 0, 400), ("turn", 400, 600), ("elsewhere", 800, 900)),
        *of(("dot.1", 0, 600), device="e"),
        Interval("e", "turn", 600, 700, complete=False),
    ]
    found = step_profile.summarise(intervals, program, seconds=2e-6, steps=2)
    # Two devices and two steps: a quarter each.
    assert found.kinds[hlo.DOT] == seconds(1000 / 4)
    assert found.kinds[hlo.COPY] == seconds(300 / 4)
    assert found.kinds[hlo.UNKNOWN] == seconds(100 / 4)
    assert sum(found.kinds.values()) == pytest.approx(found.step_s) == pytest.approx(1e-6)
    assert found.operations[0] == ("dot.1", seconds(250))
    assert found.incomplete == 1 / 4


def event(name, start, duration, **stats):
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats.items())


def trace(plane, **lines):
    """A trace with one plane of interest beside the empty one that every trace has."""
    of_plane = [SimpleNamespace(name=name, events=events) for name, events in lines.items()]
    return SimpleNamespace(
        planes=[
            SimpleNamespace(name="/host:metadata", lines=[]),
            SimpleNamespace(name=plane, lines=of_plane),
        ]
    )


def test_on_cpu_an_operation_ends_where_its_end_is_traced_in_whatever_thread():
    ours = {"hlo_module": "jit__fun", "device_ordinal": 1}
    found = step_profile.read(
        trace(
            "/host:CPU",
            thread=[
                event("convolution.4", 10, 2, hlo_op="convolution.4", _p=7, **ours),
                event("ThunkExecutor::Execute", 0, 500),
                event("copy.1", 20, 5, hlo_op="copy.1", _p=8, **ours),
                event("copy.1", 30, 5, hlo_op="copy.1", _p=9, hlo_module="jit_other"),
            ],
            other=[event("end: convolution.4", 90, 1, _c=7), event("end: copy.1", 36, 1, _c=9)],
        ),
        "jit__fun",
    )
    assert found == [
        Interval("/host:CPU 1", "convolution.4", 10, 90),
        Interval("/host:CPU 1", "copy.1", 20, 25, complete=False),
        Interval("/host:CPU 0", "", 30, 36),
    ]


def test_on_a_gpu_kernels_are_named_by_their_operation():
    lines = {
        "Stream #13(Kernel,MemcpyD2D)": [
            event("void kernel<float>()", 5, 10, hlo_op="fusion.3", hlo_module="jit__fun"),
            event("MemcpyD2D", 20, 1),
        ],
        "XLA Ops": [event("fusion.3", 5, 10)],  # the same again, derived: not to be counted twice
    }
    found = step_profile.read(trace("/device:GPU:0", **lines), "jit__fun")
    assert found == [
        Interval("/device:GPU:0", "fusion.3", 5, 15),
        Interval("/device:GPU:0", "", 20, 21),
    ]


def test_on_a_tpu_operations_are_on_their_line():
    lines = {
        "XLA Modules": [event("jit__fun(1)", 0, 100)],
        "XLA Ops": [event("%fusion.3 = f32[8]{0} fusion(%x)", 5, 10)],
    }
    found = step_profile.read(trace("/device:TPU:0", **lines), "jit__fun")
    assert found == [Interval("/device:TPU:0", "fusion.3", 5, 15)]
