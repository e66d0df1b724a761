"""Compiling for chips that are not there; TPU's compiler is large, so here it is CPU's."""

import importlib.util

import jax
import pytest

from benchmarks.topology import compiled_for, topology_devices
from benchmarks.work import Options


def test_a_program_says_what_it_needs_and_sends():
    options = Options(2, batch_size=8, examples=16)
    unrolled, scanned = (
        compiled_for(jax.devices()[:2], options, scan_stages=scan) for scan in (False, True)
    )
    for found in (unrolled, scanned):
        assert (found["operations"], found["all_reduces"]) == (1, 1)
        assert found["size_bytes"] > 4 * 150_000  # the parameters of six blocks
        assert found["temporary_bytes"] > 0
        assert found["compile_s"] > 0
    assert scanned["size_bytes"] == unrolled["size_bytes"]
    assert scanned["moved_bytes"] < unrolled["moved_bytes"]  # a loop's body counts once


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_it_says_what_to_install():
    with pytest.raises(RuntimeError, match="pip install libtpu"):
        topology_devices("v5e:4x4")
