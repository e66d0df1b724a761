"""Counts and kinds of operations, from HLO text of all platforms and from a compiled network."""

# ruff: noqa: E501 (XLA breaks no lines)

import collections
import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo, limits
from tests.networks import perturbed_variables, random_images, tiny_resnet

FORWARD = "jit(_fun)/jvp(ResNet)/stage1_block01/conv1/conv_general_dilated"
BACKWARD = "jit(_fun)/transpose(jvp(ResNet))/stage1_block01/conv1/conv_general_dilated"
SHAPE = "f32[8,32,32,16]{3,2,1,0}"
TEXT = f"""HloModule jit__fun, is_scheduled=true

FileNames
1 "somewhere (not a computation) {{"

%moves (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %t = f32[8]{{0}} transpose(%p), dimensions={{0}}
}}

%output_fusion (p.1: {SHAPE}) -> {SHAPE} {{
  %p.1 = {SHAPE} parameter(0)
  %inner = {SHAPE} convolution(%p.1, %p.1), window={{size=3x3 pad=1_1x1_1}}, metadata={{op_name="{FORWARD}"}}
  ROOT %plus = {SHAPE} add(%inner, %p.1)
}}

%nameless (p.2: f32[8]) -> f32[8] {{
  %p.2 = f32[8]{{0}} parameter(0)
  %m = f32[8]{{0}} multiply(%p.2, %p.2), metadata={{op_name="jit(_fun)/jvp(ResNet)/stem/norm/mul"}}
  ROOT %a = f32[8]{{0}} add(%m, %p.2), metadata={{op_name="jit(_fun)/jvp(ResNet)/stem/norm/add"}}
}}

%command_buffer (p.3: f32[8]) -> f32[8] {{
  %p.3 = f32[8]{{0}} parameter(0)
  %in_buffer = f32[8]{{0}} fusion(%p.3), kind=kLoop, calls=%nameless
  ROOT %in_buffer.1 = f32[8]{{0}} fusion(%in_buffer), kind=kLoop, calls=%moves
}}

%body (p.4: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p.4 = (s32[], f32[8]{{0}}) parameter(0)
  %turn = f32[8]{{0}} negate(%p.4)
  ROOT %both = (s32[], f32[8]{{0}}) tuple(%turn, %turn)
}}

%condition (p.5: (s32[], f32[8])) -> pred[] {{
  %p.5 = (s32[], f32[8]{{0}}) parameter(0)
  ROOT %less = pred[] compare(%p.5, %p.5), direction=LT
}}

ENTRY %main.1 (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %name = f32[8]{{0}} bitcast(%x)
  %forward = {SHAPE} convolution(%x, %x), window={{size=3x3 pad=1_1x1_1}}, metadata={{op_name="{FORWARD}"}}
  %of_input = {SHAPE} convolution(%x, %x), window={{size=3x3 pad=1_1x1_1}}, metadata={{op_name="{BACKWARD}"}}
  %of_weights = f32[16,3,3,16]{{3,2,1,0}} convolution(%x, %x), window={{size=32x32 pad=1_1x1_1}}
  %whose = {SHAPE} convolution(%x, %x), window={{size=3x3 pad=1_1x1_1}}
  %fused = {SHAPE} fusion(%x), kind=kOutput, calls=%output_fusion
  %cudnn = ({SHAPE}, u8[0]{{0}}) custom-call(%x, %x), window={{size=3x3}}, custom_call_target="__cudnn$convBackwardFilter", metadata={{op_name="{BACKWARD}"}}
  %copied = f32[8]{{0}} copy(%x)
  %moved = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%moves
  %normed = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%nameless
  %lossy = f32[8]{{0}} exponential(%x), metadata={{op_name="jit(_fun)/jvp()/exp"}}
  %updated = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%nameless, metadata={{op_name="jit(_fun)/sub"}}
  %product = f32[8]{{0}} dot(%x, %x)
  %gemm = f32[8]{{0}} custom-call(%x), custom_call_target="__cublas$gemm"
  %buffer = f32[8]{{0}} call(%x), to_apply=%command_buffer
  %small = f32[8]{{0}} call(%x), to_apply=%command_buffer, frontend_attributes={{xla_cpu_small_call="true"}}
  %loop = (s32[], f32[8]{{0}}) while(%x), condition=%condition, body=%body, backend_config={{"known_trip_count":{{"n":"5"}}}}
  %sum = (f32[8]{{0}}, /*index=1*/f32[8]{{0}}) all-reduce-start(%x, %x), to_apply=%nameless
  %summed = f32[8]{{0}} all-reduce-done(%sum)
  ROOT %out = f32[8]{{0}} get-tuple-element(%summed), index=0
}}
"""


def test_what_runs_is_counted_and_what_only_names_is_not():
    program = hlo.parse(TEXT)
    assert (program.name, program.entry) == ("jit__fun", "main.1")
    assert program.counts() == collections.Counter(
        {
            "convolution": 4,
            "fusion": 4 + 2,  # two in the command buffer
            "custom-call": 2,
            "copy": 1,
            "exponential": 1,
            "dot": 1,
            "call": 1,  # the small one, which XLA compiles whole
            "negate": 5,
            "compare": 5,
            "all-reduce-start": 1,
        }
    )
    assert program.launches() == program.counts().total()
    assert program.containers() == {"buffer", "loop"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forward", hlo.FORWARD),
        ("of_input", hlo.INPUT_GRADIENT),
        ("of_weights", hlo.WEIGHT_GRADIENT),
        ("whose", hlo.UNKNOWN),
        ("fused", hlo.FORWARD),
        ("cudnn", hlo.WEIGHT_GRADIENT),
        ("copied", hlo.COPY),
        ("moved", hlo.COPY),
        ("normed", hlo.NORM),
        ("in_buffer", hlo.NORM),
        ("in_buffer.1", hlo.COPY),
        ("lossy", hlo.OTHER),
        ("updated", hlo.OTHER),
        ("product", hlo.DOT),
        ("gemm", hlo.DOT),
        ("sum", hlo.ALL_REDUCE),
    ],
)
def test_an_operation_is_of_its_kind(name, kind):
    assert hlo.parse(TEXT).kinds()[name] == kind


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation in a text of 5 characters"):
        hlo.parse("hello")


def test_a_compiled_network_has_a_gradient_of_each_convolution():
    # Where a map is smaller than the kernel, XLA swaps the two, and no window tells gradients apart.
    shape = (32, 16, 3)
    model = tiny_resnet((1, 1, 1))
    variables = perturbed_variables(model, shape)
    images = random_images(4, shape)

    def loss(params):
        all_of_it = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, _ = model.apply(all_of_it, images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits * logits)

    compiled = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
    program = hlo.parse(compiled.as_text())
    kinds = program.kinds()
    found = collections.Counter(kinds[each.name] for each, _ in program.launched())
    layers = 1 + 3 * 2
    assert found[hlo.FORWARD] == layers
    assert found[hlo.WEIGHT_GRADIENT] == layers
    assert found[hlo.INPUT_GRADIENT] == layers - 1  # nobody needs that of the images
    assert found[hlo.UNKNOWN] == 0
    assert found[hlo.NORM] >= 2 * layers


def test_the_chain_that_measures_launches_is_not_fused_away():
    def launches(length):
        chain = functools.partial(limits._chain, length)
        return hlo.parse(jax.jit(chain).lower(jnp.ones(128)).compile().as_text()).launches()

    assert launches(8) - launches(4) >= 4


def test_loops_within_loops_multiply():
    def loop(name, body, trips):
        trip_count = f'backend_config={{"known_trip_count":{{"n":"{trips}"}}}}'
        return f"  %{name} = f32[] while(%x), condition=%none, body=%{body}, {trip_count}"

    program = hlo.parse(
        "\n".join(
            [
                "%innermost (x: f32[]) -> f32[] {\n  %turn = f32[] negate(%x)\n}",
                f"%middle (x: f32[]) -> f32[] {{\n{loop('inner', 'innermost', 4)}\n}}",
                f"ENTRY %main (x: f32[]) -> f32[] {{\n{loop('outer', 'middle', 3)}\n}}",
            ]
        )
    )
    assert program.counts() == {"negate": 12}
