"""Delivery: bundle, planner, endpoint, device client and link emulation.

Imports `accordion_jax.depth`; JAX only in `runtime`, where a device runs a model.
"""
