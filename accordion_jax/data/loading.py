"""The one call that gives a data set, and the dictionary that says which there are."""

import functools
import os
import pathlib
from collections.abc import Callable

import numpy as np

from accordion_jax.data.cifar import load_cifar
from accordion_jax.data.dataset import Dataset, fixed_permutation
from accordion_jax.data.digits import load_digits

# A new data set is one entry: a function from ("train" or "test", data folder) to a Dataset.
LOADERS: dict[str, Callable[[str, pathlib.Path], Dataset]] = {
    "cifar10": functools.partial(load_cifar, "cifar10"),
    "cifar100": functools.partial(load_cifar, "cifar100"),
    "digits": load_digits,
}
SPLITS = ("train", "validation", "test")


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    holdout: int = 0,
    seed: int = 0,
) -> Dataset:
    """Returns one split of a data set, whole, in memory.

    A data set that is not prepared under data_dir is downloaded and prepared there.

    Args:
      name: "cifar10", "cifar100" or "digits".
      split: "train", "validation" or "test". Validation is the held-out part of the original
        training split, and train is the rest of it.
      data_dir: TFDS's data folder; by default the environment's TFDS_DATA_DIR, else
        ~/tensorflow_datasets.
      holdout: how many training examples are held out.
      seed: of the shuffle that chooses them. Not the run's training seed: runs that are compared
        hold out the same images. With one seed, a smaller holdout is a part of a larger one.

    Returns:
      A Dataset, its examples in the order of the original split.

    Raises:
      ValueError: an unknown name or split, a holdout that doesn't fit, or a data_dir that isn't a
        local folder; says what was given and what is possible.
      DatasetUnavailableError: the data set is not there and can't be prepared; says what to do.
    """
    if name not in LOADERS:
        raise ValueError(f"unknown data set {name!r}; wanted one of {', '.join(LOADERS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {name}; wanted one of {', '.join(SPLITS)}")
    if holdout < 0:
        raise ValueError(f"holdout={holdout} is negative; wanted a number of training images")
    if split == "validation" and holdout == 0:
        raise ValueError(
            f"{name} has no validation split with holdout=0; set holdout to the number of training "
            "images to hold out (5000 is usual for CIFAR), or load the test split"
        )
    dataset = LOADERS[name]("test" if split == "test" else "train", _folder(data_dir))
    if split == "test" or holdout == 0:
        return dataset
    n = len(dataset)
    if holdout >= n:
        raise ValueError(
            f"holdout={holdout} leaves no training image of the {n} of {name}; wanted less than {n}"
        )
    held_out = np.zeros(n, bool)
    held_out[fixed_permutation(n, seed)[:holdout]] = True
    rows = held_out if split == "validation" else ~held_out
    return dataset.select(rows)


def _folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns the data folder: the one given, or TFDS's default."""
    given = os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    if "://" in given:
        raise ValueError(
            f"data_dir={given!r} is a remote address; wanted a local folder: copy the prepared "
            "data set to this machine first (150 MB)"
        )
    return pathlib.Path(given).expanduser()
