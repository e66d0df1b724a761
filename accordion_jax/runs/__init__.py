"""A run's folder and config, grids of runs, processes and their time. No JAX."""
