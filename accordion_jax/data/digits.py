"""Scikit-learn's handwritten digits: real images that need no download.

1,797 grey images of 8 x 8 pixels from the test part of UCI's "Optical Recognition of Handwritten
Digits" (E. Alpaydin and C. Kaynak, 1998). They come with the package, so a whole training run on
them takes a minute anywhere: for tests, demonstrations and a first look.
"""

import pathlib

import numpy as np

from accordion_jax.data.dataset import Dataset, fixed_permutation
from accordion_jax.tasks import Images

# Every fifth image goes to the test split, from a shuffle by this seed: never to be changed.
_SPLIT_SEED = 0
_TEST_EVERY = 5
MEAN = (0.3051,)
STD = (0.3756,)


def load_digits(split: str, data_dir: pathlib.Path) -> Dataset:
    """Returns the "train" (1,437 images) or "test" (360) split of the digits.

    The two are stratified: each class has its share in both, to within one image.

    Args:
      split: "train" or "test".
      data_dir: not used; the images are part of scikit-learn.

    Returns:
      inputs [n, 8, 8, 1] uint8, the 17 levels of the original spread over 0 to 255.
    """
    del data_dir
    # Imported here: it takes about a second, and only this data set needs it.
    from sklearn import datasets

    digits = datasets.load_digits()
    labels = digits.target.astype(np.int32)
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    shuffled = fixed_permutation(len(labels), _SPLIT_SEED)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    is_test = np.zeros(len(labels), bool)
    is_test[by_class[::_TEST_EVERY]] = True
    chosen = shuffled[is_test[shuffled] == (split == "test")]
    return Dataset(
        name="digits",
        task=Images((8, 8, 1), MEAN, STD),
        inputs=images[chosen],
        targets=labels[chosen],
        num_classes=10,
    )
