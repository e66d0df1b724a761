"""Compiling for chips that are not there; their compilers are large, so here it is CPU's."""

import importlib.util

import jax
import pytest

from accordion_jax.system.command import CommandError
from benchmarks.compilers.chips import compiled_for, topology_devices
from benchmarks.compilers.gpus import GPUS
from benchmarks.work import Options


def test_a_program_says_what_it_needs_and_sends():
    options = Options(2, batch_size=8, examples=16)
    unrolled, scanned = (
        compiled_for(jax.devices()[:2], options, scan_stages=scan) for scan in (False, True)
    )
    for found in (unrolled, scanned):
        assert [each.kind for each in found.sent] == ["all-reduce"]
        assert found.sent[0].size_bytes > 4 * 150_000  # the parameters of six blocks
        assert found.temporary_bytes > 0
        assert found.compile_s > 0
        assert found.cycles == 0  # a CPU's compiler does not say
        # Each of the six blocks runs at least its two convolutions and their four gradients.
        assert found.launches > 6 * 6
    assert scanned.sent == unrolled.sent


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("v5e:4x4", "libtpu", "libtpu"), ("h100", "jax_plugins", r"'jax\[cuda12\]'")],
)
def test_without_the_compiler_it_says_what_to_install(name, module, package):
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(CommandError, match=f"--topology={name} wants .*: pip install {package}"):
        topology_devices(name)


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None, reason="wants pip install 'jax[cuda12]'"
)
@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_launches_few_kernels_a_block(name):
    """Small kernels bound the step there: a block had 37 of them, and must not have them again."""
    devices = topology_devices(name)
    small, large = (
        compiled_for(devices, Options(n, batch_size=128, examples=256), scan_stages=False)
        for n in (1, 2)
    )
    assert large.sent == []
    assert 6 < (large.launches - small.launches) / 3 <= 26


@pytest.mark.parametrize("name", GPUS)
def test_a_gpus_description_names_it_and_is_whole(name):
    gpu, text = GPUS[name], GPUS[name].config()
    assert text.count("{") == text.count("}")
    for part in (f'"{gpu.name}"', f"core_count: {gpu.cores}", f"size: {gpu.memory_gib * 2**30}\n"):
        assert part in text
