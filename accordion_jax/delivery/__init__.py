"""How a model travels: bundles of segments, the planner, the network endpoint and the device.

Knows segments and look-up tables, not networks: any family of models that can be cut into pieces
can be delivered. JAX is imported in `runtimes.networks` alone.
"""
