"""Random crop and flip, as arrays in and arrays out on the accelerator.

A crop of a zero-padded image is a linear map of its rows and of its columns, and so is a flip: both
are applied as a product with a matrix that has at most a single one in each row. Against a gather
or a `dynamic_slice` an image, it is two batched matrix products on every backend (a TPU is poor at
gathers), needs no padded copy (a row that falls outside selects nothing, which is zero), and is
exact: each sum has one term, an integer of eight bits, which float32, TF32 and bfloat16 all hold.
"""

import jax
import jax.numpy as jnp


def augment_parameters(
    key: jax.Array, batch: int, pad: int = 4, flip: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Returns the (offsets, flips) that `augment` would draw for a batch.

    They are apart from `apply_augmentation` so that each device can draw them for the *global*
    batch and keep the rows of its own part: what an image looks like then doesn't depend on how
    many devices there are.

    Args:
      key: a JAX random key.
      batch: static; number of images.
      pad: static; pixels of zero padding on every side.
      flip: static; False draws no flips.

    Returns:
      offsets: [batch, 2] int32, (row, column) of the crop's corner in the padded image, uniform in
        [0, 2 * pad].
      flips: [batch] bool, each True with probability 1/2.

    Raises:
      ValueError: pad is negative.
    """
    if pad < 0:
        raise ValueError(f"pad={pad} is negative; wanted the pixels to pad, 0 or more")
    offset_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * pad + 1, dtype=jnp.int32)
    flips = jax.random.bernoulli(flip_key, 0.5, (batch,)) if flip else jnp.zeros(batch, bool)
    return offsets, flips


def apply_augmentation(
    images: jax.Array, offsets: jax.Array, flips: jax.Array, pad: int = 4
) -> jax.Array:
    """Returns each image zero-padded, cropped to its own size at its offset, then flipped.

    Args:
      images: [batch, height, width, channels] uint8.
      offsets: [batch, 2] int32, (row, column) of the crop's corner, in [0, 2 * pad].
      flips: [batch] bool; True mirrors the crop left to right.
      pad: static; pixels of zero padding on every side.

    Returns:
      [batch, height, width, channels] uint8.

    Raises:
      TypeError: images are not uint8.
      ValueError: the shapes don't belong together; names all three.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"images are {images.dtype}; wanted uint8: augment before normalising")
    batch = images.shape[0]
    if images.ndim != 4 or offsets.shape != (batch, 2) or flips.shape != (batch,):
        raise ValueError(
            f"images {list(images.shape)}, offsets {list(offsets.shape)} and flips "
            f"{list(flips.shape)} don't match; wanted [batch, height, width, channels], "
            "[batch, 2] and [batch]"
        )
    height, width = images.shape[1:3]
    # [batch, out]: the row, or column, of the unpadded image that each output one shows.
    rows = offsets[:, :1] + jnp.arange(height, dtype=jnp.int32)[None] - pad
    columns = jnp.arange(width, dtype=jnp.int32)[None]
    columns = jnp.where(flips[:, None], width - 1 - columns, columns) + offsets[:, 1:] - pad
    cropped = jnp.einsum("brh,bhwc->brwc", _selection(rows, height), images.astype(jnp.float32))
    return jnp.einsum("bvw,brwc->brvc", _selection(columns, width), cropped).astype(jnp.uint8)


def _selection(indices: jax.Array, size: int) -> jax.Array:
    """Returns [batch, out, size] float32, one where indices [batch, out] says, else zero."""
    positions = jnp.arange(size, dtype=jnp.int32)[None, None]
    return (indices[:, :, None] == positions).astype(jnp.float32)


def augment(images: jax.Array, key: jax.Array, *, pad: int = 4, flip: bool = True) -> jax.Array:
    """Returns the images with a random crop and a random flip of each, as in He et al. 2016.

    Args:
      images: [batch, height, width, channels] uint8.
      key: a JAX random key, for instance `jax.random.fold_in(key, step)`.
      pad: static; pixels of zero padding on every side before the crop.
      flip: static; False leaves left and right as they are (digits have a handedness).

    Returns:
      [batch, height, width, channels] uint8.

    Raises:
      TypeError: images are not uint8.
      ValueError: pad is negative, or images are not four-dimensional.
    """
    offsets, flips = augment_parameters(key, images.shape[0], pad, flip)
    return apply_augmentation(images, offsets, flips, pad)
