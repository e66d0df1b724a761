"""Compiling for chips that are not there; TPU's compiler is large, so here it is CPU's."""

import importlib.util

import jax
import pytest

from benchmarks.topology import compiled_for, topology_devices
from benchmarks.work import Options


@pytest.mark.parametrize("scan_stages", [False, True])
def test_a_program_says_what_it_needs_and_sends(scan_stages):
    found = compiled_for(
        jax.devices()[:2], Options(1, batch_size=8, examples=16), scan_stages=scan_stages
    )
    assert (found["operations"], found["all_reduces"]) == (1, 1)
    assert found["size_bytes"] > 4 * 75_000  # the parameters of three blocks
    assert found["temporary_bytes"] > 0
    assert found["compile_s"] > 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_it_says_what_to_install():
    with pytest.raises(RuntimeError, match="pip install libtpu"):
        topology_devices("v5e:4x4")
