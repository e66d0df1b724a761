"""What is trained in place of a network's kernels: pruned, factored, or quantised ones.

A *form* says what its parameters are, and which network they stand for. Parameters are flat,
``{"stage1_block01/conv1/kernel": array}``; those of a kernel that is factored or has a scale have
names below its own. `Form.network` is differentiable, so that one training step serves all forms.
A network of factors is trained through their product, which is the kernel of the same function: all
forms of one network then run the convolutions of one program.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from accordion_jax.delivery.bundle.encodings.integers import LEVELS
from accordion_jax.delivery.bundle.encodings.scales import choose_scales, scales_of
from accordion_jax.training.pruning import kept_weights

Flat = Mapping[str, Any]


class Form(Protocol):
    """What stands for a network's parameters; hashable.

    Attributes:
      kind: key of `FORMS`.
    """

    kind: ClassVar[str]

    def __hash__(self) -> int:
        """Of its fields."""

    def begin(self, params: Flat) -> tuple[Flat, Flat]:
        """Returns parameters to train, and arrays that stay fixed, from those of a network."""

    @staticmethod
    def network(params: Flat, fixed: Flat) -> Flat:
        """Returns the parameters of the network that they stand for."""


def is_block_kernel(path: str) -> bool:
    """Whether a path is that of a 3x3 kernel in a block: those of stem and head are 2 % of all."""
    return path.endswith("/kernel") and not path.startswith(("stem/", "head/"))


@dataclasses.dataclass(frozen=True)
class Whole:
    """The parameters themselves."""

    kind: ClassVar[str] = "whole"

    def begin(self, params: Flat) -> tuple[Flat, Flat]:
        """Returns them, and nothing that is fixed."""
        return dict(params), {}

    @staticmethod
    def network(params: Flat, fixed: Flat) -> Flat:
        """Returns them."""
        del fixed
        return params


@dataclasses.dataclass(frozen=True)
class Pruned:
    """The weights that matter most, under masks that stay; the others are zero.

    All blocks' kernels are compared together, by layer-adaptive magnitude, as in training a network
    of any depth (`training.pruning`). Stem and head stay whole, as is usual.

    Attributes:
      share: of the blocks' weights that are zero, 0 to 1.
    """

    share: float
    kind: ClassVar[str] = "pruned"

    def begin(self, params: Flat) -> tuple[Flat, Flat]:
        """Returns the parameters with zeros, and a mask a kernel of a block."""
        kernels = {path: np.asarray(x) for path, x in params.items() if is_block_kernel(path)}
        kept = kept_weights(list(kernels.values()), self.share)
        masks = {path: np.float32(mask) for path, mask in zip(kernels, kept, strict=True)}
        return dict(params) | {path: kernels[path] * mask for path, mask in masks.items()}, masks

    @staticmethod
    def network(params: Flat, fixed: Flat) -> Flat:
        """Returns the parameters, zero where a mask is."""
        return {path: x * fixed[path] if path in fixed else x for path, x in params.items()}


@dataclasses.dataclass(frozen=True)
class Factored:
    """Each 3x3 kernel of a block as a product of two, of low rank (its truncated SVD at first).

    "spatial" is 3x1 after 1x3 (Jaderberg et al. 2014, arXiv:1405.3866; Tai et al. 2016,
    arXiv:1511.06067): 6 r c weights in place of 9 c^2. "channel" is 3x3 to r channels, then 1x1:
    10 r c weights.

    Attributes:
      way: "spatial" or "channel".
      share: rank r over channels c.
    """

    way: str
    share: float
    kind: ClassVar[str] = "factored"

    def begin(self, params: Flat) -> tuple[Flat, Flat]:
        """Returns the parameters with ``kernel/first`` and ``kernel/second`` for each kernel."""
        made: dict[str, Any] = {}
        for path, x in params.items():
            if not is_block_kernel(path):
                made[path] = x
                continue
            height, width, inputs, outputs = x.shape
            kernel = np.asarray(x, np.float64)
            if self.way == "spatial":
                matrix = kernel.transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs)
            else:
                matrix = kernel.reshape(height * width * inputs, outputs)
            left, values, right = np.linalg.svd(matrix, full_matrices=False)
            rank = min(max(1, round(self.share * outputs)), values.size)
            root = np.sqrt(values[:rank])
            first, second = left[:, :rank] * root, root[:, None] * right[:rank]
            if self.way == "spatial":
                first = first.reshape(height, 1, inputs, rank)
                second = second.reshape(rank, width, outputs).transpose(1, 0, 2)[None]
            else:
                first = first.reshape(height, width, inputs, rank)
                second = second[None, None]
            made[f"{path}/first"] = first.astype(np.float32)
            made[f"{path}/second"] = np.ascontiguousarray(second, np.float32)
        return made, {}

    @staticmethod
    def network(params: Flat, fixed: Flat) -> Flat:
        """Returns the parameters with the product of the factors as each kernel.

        Convolving with one factor, then with the other, is convolving with their product: with zero
        padding too, since each factor that is wider than one is so along an axis of its own, or
        alone.
        """
        del fixed
        made = {}
        for path, x in params.items():
            if path.endswith("/first"):
                kernel = path.removesuffix("/first")
                second = params[f"{kernel}/second"]
                made[kernel] = jnp.matmul(x, second, precision=jax.lax.Precision.HIGHEST)
            elif not path.endswith("/second"):
                made[path] = x
        return made


@dataclasses.dataclass(frozen=True)
class Quantised:
    """Integers of few bits with a trained scale a channel; gradients go straight through.

    Levels and rounding are those of the encodings of integers. Scales are trained as LSQ trains
    them (Esser et al. 2020, arXiv:1902.08153), from those of least squared error. Stem and head
    keep 8 bits, as is usual below 8.

    Attributes:
      bits: a weight of a block, 2 to 8.
    """

    bits: int
    kind: ClassVar[str] = "quantised"

    def begin(self, params: Flat) -> tuple[Flat, Flat]:
        """Returns the parameters with a ``kernel/scale`` each, and ``kernel/largest`` levels."""
        made, fixed = dict(params), {}
        for path, x in params.items():
            if not path.endswith("/kernel"):
                continue
            levels = LEVELS[self.bits if is_block_kernel(path) else 8]
            matrix = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
            made[f"{path}/scale"] = scales_of(*choose_scales(matrix, levels))
            fixed[f"{path}/largest"] = np.float32((levels - 1) / 2)
        return made, fixed

    @staticmethod
    def network(params: Flat, fixed: Flat) -> Flat:
        """Returns the parameters with each kernel on its levels."""
        made = {}
        for path, x in params.items():
            if (scale := params.get(f"{path}/scale")) is not None:
                made[path] = fake_quantise(x, scale, fixed[f"{path}/largest"])
            elif not path.endswith("/kernel/scale"):
                made[path] = x
        return made


def fake_quantise(kernel: jax.Array, scale: jax.Array, largest: jax.Array) -> jax.Array:
    """Returns a kernel on the levels ``-largest .. largest`` times its channels' scales.

    The gradient of the rounding is that of the identity; with respect to a scale it is divided by
    the root of (weights a channel * largest), as in LSQ, so that scales move no faster than weights
    do.

    Args:
      kernel: [..., channels] float32.
      scale: [channels] float32.
      largest: [] float32, a whole number.
    """
    rows = kernel.size // kernel.shape[-1]
    slow = jax.lax.rsqrt(rows * largest)
    scale = scale * slow + jax.lax.stop_gradient(scale * (1 - slow))
    scale = (jnp.abs(scale) + 1e-12).reshape((1,) * (kernel.ndim - 1) + (-1,))
    position = jnp.clip(kernel / scale, -largest, largest)
    rounded = jnp.round(position + largest) - largest
    return (position + jax.lax.stop_gradient(rounded - position)) * scale


FORMS: dict[str, Any] = {cls.kind: cls for cls in (Whole, Pruned, Factored, Quantised)}


def describe(form: Form) -> dict[str, Any]:
    """Returns a form as JSON-able values; `form_of` is the inverse."""
    return {"kind": form.kind} | dataclasses.asdict(form)  # type: ignore[call-overload]


def form_of(description: Mapping[str, Any]) -> Form:
    """Returns the form of a description.

    Raises:
      ValueError: there is no such form; names it.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    if kind not in FORMS:
        raise ValueError(f"form {kind!r} is not known; known: {sorted(FORMS)}")
    return FORMS[kind](**fields)


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: Flat) -> dict[str, Any]:
    """Returns nested dictionaries; `flatten` is the inverse."""
    return traverse_util.unflatten_dict(flat, sep="/")
