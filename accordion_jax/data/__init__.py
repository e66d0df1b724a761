"""Data sets as arrays in memory, and how they are placed on the devices."""

from accordion_jax.data.dataset import Dataset, DatasetUnavailableError
from accordion_jax.data.loading import load
from accordion_jax.data.placement import AXIS, replicate, spread, to_global, unreplicate

__all__ = [
    "AXIS",
    "Dataset",
    "DatasetUnavailableError",
    "load",
    "replicate",
    "spread",
    "to_global",
    "unreplicate",
]
