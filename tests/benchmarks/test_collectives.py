"""Reading a compiled program's text: each operation once, with its bytes."""

import pytest

from benchmarks.collectives import Collective, collectives

# Lines as XLA writes them for CPU, TPU (layouts with tiles) and GPU (in two halves).
CPU = (
    "  ROOT %all-reduce.3 = (f32[100]{0}, f32[3,3,16,16]{3,2,1,0}, /*index=2*/f32[]) "
    "all-reduce(%a, %b, %c), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%region"
)
TPU = (
    "  %all-reduce.41 = (f32[64,100]{1,0:T(8,128)S(1)}, bf16[8]{0:T(128)}) "
    "all-reduce(%a, %b), replica_groups=[1,16]<=[16], to_apply=%add"
)
GPU = (
    "  %all-reduce-start = f32[7]{0} all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%add\n"
    "  %all-reduce-done = f32[7]{0} all-reduce-done(%all-reduce-start)"
)
MESH = (
    "  %psum.7 = f32[4]{0} all-reduce(%x), replica_groups=mesh['run'=3, 'batch'=8] {GROUP}, "
    "use_global_device_ids=true, to_apply=%add"
)
OTHERS = (
    "  %gathered = pred[4,2]{1,0} all-gather(%x), replica_groups={}, dimensions={0}\n"
    "  %sum = f32[] get-tuple-element(%all-reduce.3), index=2\n"
    "  %fusion = f32[9]{0} fusion(%all-reduce.3), calls=%all-reduce_fusion"
)


def test_arrays_bytes_and_groups_are_those_of_the_line():
    assert collectives(CPU) == [Collective("all-reduce", 3, 4 * (100 + 9 * 256 + 1), 2)]
    assert collectives(TPU) == [Collective("all-reduce", 2, 4 * 6400 + 2 * 8, 16)]


@pytest.mark.parametrize(
    ("group", "devices"), [("'batch'", 8), ("'run', 'batch'", 24), ("'elsewhere'", 0)]
)
def test_groups_may_be_axes_of_a_mesh(group, devices):
    (found,) = collectives(MESH.replace("GROUP", group))
    assert found == Collective("all-reduce", 1, 16, devices)


def test_an_asynchronous_pair_counts_once():
    assert collectives(GPU) == [Collective("all-reduce", 1, 28, 2)]


def test_only_what_sends_counts_and_of_every_kind():
    assert collectives(OTHERS) == [Collective("all-gather", 1, 8, 0)]
