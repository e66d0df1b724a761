"""Data sets as arrays in memory, and augmentation on the device."""

from accordion_jax.data.dataset import Dataset, DatasetUnavailableError
from accordion_jax.data.loading import load
from accordion_jax.data.placement import AXIS, replicate, spread, to_global, unreplicate
from accordion_jax.tasks.augmentation import apply_augmentation, augment, augment_parameters
from accordion_jax.tasks.images import normalise

__all__ = [
    "AXIS",
    "Dataset",
    "DatasetUnavailableError",
    "apply_augmentation",
    "augment",
    "augment_parameters",
    "load",
    "normalise",
    "replicate",
    "spread",
    "to_global",
    "unreplicate",
]
