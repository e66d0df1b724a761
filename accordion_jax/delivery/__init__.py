"""How a model travels: bundles of segments, the planner, the network endpoint and the device.

Knows segments and look-up tables, not networks: any family of models that can be cut into pieces
can be delivered. Imports `accordion_jax.depth` alone, and JAX only in `runtime`.
"""
