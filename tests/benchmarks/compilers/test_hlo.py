"""Counting what runs and what is sent, from HLO text of all platforms and a compiled network."""

# ruff: noqa: E501 (XLA breaks no lines)

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compilers import hlo
from benchmarks.compilers.hlo import Collective

TEXT = """HloModule jit__fun, is_scheduled=true

FileNames
1 "somewhere (not a computation) {"

%fused (p.2: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  %m = f32[8]{0} multiply(%p.2, %p.2), metadata={op_name="jit(_fun)/jvp(ResNet)/stem/norm/mul"}
  ROOT %a = f32[8]{0} add(%m, %p.2)
}

%command_buffer (p.3: f32[8]) -> f32[8] {
  %p.3 = f32[8]{0} parameter(0)
  %in_buffer = f32[8]{0} fusion(%p.3), kind=kLoop, calls=%fused
  ROOT %in_buffer.1 = f32[8]{0} fusion(%in_buffer), kind=kLoop, calls=%fused
}

%body (p.4: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.4 = (s32[], f32[8]{0}) parameter(0)
  %turn = f32[8]{0} negate(%p.4)
  ROOT %both = (s32[], f32[8]{0}) tuple(%turn, %turn)
}

%condition (p.5: (s32[], f32[8])) -> pred[] {
  %p.5 = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] compare(%p.5, %p.5), direction=LT
}

%branch (p.6: f32[8]) -> f32[8] {
  %p.6 = f32[8]{0} parameter(0)
  ROOT %sine = f32[8]{0} sine(%p.6)
}

ENTRY %main.1 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %name = f32[8]{0} bitcast(%x)
"""
END = """
  ROOT %out = f32[8]{0} get-tuple-element(%x), index=0
}
"""


@pytest.mark.parametrize(
    ("instruction", "launched"),
    [
        ("%c = f32[8,32,32,16]{3,2,1,0} convolution(%x, %x), window={size=3x3 pad=1_1x1_1}", 1),
        ('%c = (f32[8]{0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$conv"', 1),
        ("%c = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused", 1),
        ("%c = f32[8]{0:T(8,128)S(1)} copy-start(%x)\n  %d = f32[8]{0} copy-done(%c)", 1),
        ("%c = f32[8]{0} call(%x), to_apply=%command_buffer", 2),
        (
            '%c = f32[8]{0} call(%x), to_apply=%command_buffer, frontend_attributes={xla_cpu_small_call="true"}',
            1,
        ),
        ("%c = (s32[], f32[8]{0}) while(%x), condition=%condition, body=%body", 2),
        (
            '%c = (s32[], f32[8]{0}) while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}',
            10,
        ),
        (
            "%c = f32[8]{0} conditional(%x, %x, %x), branch_computations={%branch, %command_buffer}",
            3,
        ),
        (
            "%c = f32[8]{0} conditional(%x, %x, %x), true_computation=%branch, false_computation=%branch",
            2,
        ),
        ("%c = f32[8]{0} all-reduce-start(%x), to_apply=%fused", 1),
        ("%c = (f32[8]{0}, f32[8]{0}) tuple(%x, %x)", 0),
    ],
)
def test_what_runs_is_counted_and_what_only_names_is_not(instruction, launched):
    assert hlo.launches(f"{TEXT}  {instruction}{END}") == launched


def test_loops_within_loops_multiply():
    def loop(name, body, trips):
        trip_count = f'backend_config={{"known_trip_count":{{"n":"{trips}"}}}}'
        return f"  %{name} = f32[] while(%x), condition=%none, body=%{body}, {trip_count}"

    text = "\n".join(
        [
            "%innermost (x: f32[]) -> f32[] {\n  %turn = f32[] negate(%x)\n}",
            f"%middle (x: f32[]) -> f32[] {{\n{loop('inner', 'innermost', 4)}\n}}",
            f"ENTRY %main (x: f32[]) -> f32[] {{\n{loop('outer', 'middle', 3)}\n}}",
        ]
    )
    assert hlo.launches(text) == 12


def test_text_that_is_no_program_is_refused():
    for read in (hlo.launches, hlo.collectives):
        with pytest.raises(ValueError, match="no ENTRY computation in a text of 5 characters"):
            read("hello")


@pytest.mark.parametrize(
    ("instruction", "sent"),
    [
        (  # CPU
            "ROOT %all-reduce.3 = (f32[100]{0}, f32[3,3,16,16]{3,2,1,0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), replica_groups={{0,1},{2,3}}, to_apply=%region",
            [Collective("all-reduce", 3, 4 * (100 + 9 * 256 + 1))],
        ),
        (  # TPU, layouts with tiles
            "%all-reduce.41 = (f32[64,100]{1,0:T(8,128)S(1)}, bf16[8]{0:T(8,128)(2,1)}) all-reduce(%a, %b), replica_groups=[1,16]<=[16], to_apply=%add",
            [Collective("all-reduce", 2, 4 * 6400 + 2 * 8)],
        ),
        (  # GPU, in two halves
            "%all-reduce-start = f32[7]{0} all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%add\n  %all-reduce-done = f32[7]{0} all-reduce-done(%all-reduce-start)",
            [Collective("all-reduce", 1, 28)],
        ),
        (
            "%gathered = pred[4,2]{1,0} all-gather(%x), replica_groups={}, dimensions={0}\n  %sum = f32[] get-tuple-element(%all-reduce.3), index=2\n  %fusion = f32[9]{0} fusion(%all-reduce.3), calls=%all-reduce_fusion",
            [Collective("all-gather", 1, 8)],
        ),
    ],
    ids=["CPU", "TPU", "GPU", "others"],
)
def test_what_is_sent_is_counted_once_with_its_bytes(instruction, sent):
    assert hlo.collectives(f"{TEXT}  {instruction}{END}") == sent


@pytest.mark.parametrize("length", [3, 7])
def test_a_chain_of_products_launches_each(length):
    def chain(x):
        for _ in range(length):
            x = x @ x
        return x

    def launches(function):
        return hlo.launches(jax.jit(function).lower(jnp.ones((64, 64))).compile().as_text())

    assert launches(chain) == length
    assert launches(lambda x: jax.lax.fori_loop(0, 9, lambda _, y: chain(y), x)) >= 9 * length
