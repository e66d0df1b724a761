"""What a data set is here: two arrays in memory and the constants that go with them.

CIFAR as uint8 is 150 MB, so a split is read whole, put on the accelerator once, and shuffled and
augmented there; nothing here streams.
"""

import dataclasses

import numpy as np


class DatasetUnavailableError(RuntimeError):
    """The data set is not prepared where we looked, and could not be prepared there either.

    Its message names the data set, the folder, what failed, and what to do about it.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a labelled image data set, whole and in memory.

    The arrays are marked read-only: a test set that something changes in place is hard to notice.

    Attributes:
      name: as given to `load`.
      images: [n, height, width, channels] uint8.
      labels: [n] int32, in [0, num_classes).
      num_classes: number of classes, whether or not each occurs in this split.
      mean: one float a channel; the training split's mean, pixels divided by 255.
      std: one float a channel; the training split's standard deviation, likewise.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"images of {self.name} are {images.dtype} {list(images.shape)}; "
                "wanted uint8 [n, height, width, channels]"
            )
        if labels.shape != images.shape[:1] or labels.dtype != np.int32:
            raise ValueError(
                f"labels of {self.name} are {labels.dtype} {list(labels.shape)}; "
                f"wanted int32 [{len(images)}], one an image"
            )
        channels = images.shape[-1]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(
                f"{self.name} has {len(self.mean)} means and {len(self.std)} standard deviations "
                f"for {channels} channels; wanted one of each a channel"
            )
        # Views, so that the caller's own arrays stay as writable as they were.
        for field, array in (("images", images.view()), ("labels", labels.view())):
            array.flags.writeable = False
            object.__setattr__(self, field, array)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> np.ndarray:
        """The images, one a row: [n, height * width * channels] uint8, the same memory."""
        return self.images.reshape(len(self), -1)


def fixed_permutation(n: int, seed: int) -> np.ndarray:
    """Returns a permutation of range(n), [n] int64, that depends on nothing but (n, seed).

    It sorts the raw output of PCG64. NumPy promises to keep that stream for ever, and does not
    promise it for `Generator.permutation`: a NumPy upgrade must not move the held-out part.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
