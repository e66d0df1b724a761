"""Compiled variants: one compilation a configuration, and errors that reach the caller."""

import threading
import types

import jax
import jax.numpy as jnp
import pytest

from accordion_jax.training.variants import Variants, compiler_options

ARGUMENTS = (jax.ShapeDtypeStruct((), jnp.float32),)


def test_each_mask_is_compiled_once_also_by_many_threads():
    traced = []

    def make(mask):
        def step(x):
            traced.append(mask)
            return x + sum(mask)

        return jax.jit(step), ARGUMENTS

    variants = Variants(make)
    masks = [(False,), (True,)]
    threads = [threading.Thread(target=variants, args=(mask,)) for mask in masks * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(traced) == masks
    assert variants.compiled == 2
    assert float(variants((True,))(jnp.float32(1))) == 2.0


def test_compile_ahead_yields_every_mask():
    variants = Variants(lambda mask: (jax.jit(lambda x: x * len(mask)), ARGUMENTS))
    masks = [(False,) * n for n in range(1, 5)]
    assert sorted(variants.compile_ahead(masks, workers=2)) == masks
    assert variants.compiled == 4


def test_background_compiles_in_order_and_a_caller_waits_for_its_own_alone():
    begun, gate = [], threading.Event()

    def make(mask):
        begun.append(mask)
        if len(mask) == 3:
            gate.wait(600)
        return jax.jit(lambda x: x * len(mask)), ARGUMENTS

    variants = Variants(make)
    masks = [(False,) * n for n in (2, 3, 1, 4)]
    variants.compile_in_background(masks, workers=1)
    assert float(variants(masks[0])(jnp.float32(1))) == 2.0
    # The worker is held up by the second; a caller that needs the third makes it itself.
    assert float(variants(masks[2])(jnp.float32(1))) == 1.0
    variants.close()
    gate.set()
    assert float(variants(masks[1])(jnp.float32(1))) == 3.0
    assert begun[:1] == masks[:1]
    assert masks[3] not in begun


def test_an_error_in_compiling_reaches_the_caller():
    def make(mask):
        raise ValueError(f"no step for {mask}")

    variants = Variants(make)
    with pytest.raises(ValueError, match="no step for"):
        variants((True,))
    with pytest.raises(ValueError, match="no step for"):
        list(variants.compile_ahead([(False,)]))


def test_an_nvidia_gpu_records_convolutions_in_its_graphs(monkeypatch):
    client = types.SimpleNamespace(platform_version="PJRT C API\ncuda 13000")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(client=client)])
    (value,) = compiler_options().values()
    assert "CONVOLUTION" in value.split(",")
    client.platform_version = "rocm 60000"
    assert compiler_options() == {}


def test_options_are_accepted_by_this_xla():
    compiled = jax.jit(jnp.sin).lower(0.5).compile(compiler_options=compiler_options() or None)
    assert float(compiled(0.5)) == pytest.approx(0.479425, abs=1e-5)
