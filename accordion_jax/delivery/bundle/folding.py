"""Folds batch norms into the convolutions before them: fewer numbers, the same function.

In use, a batch norm after a convolution is ``(conv(x) - mean) * g + bias`` with
``g = scale / sqrt(var + epsilon)``: a convolution with the kernel ``g * kernel``, and a bias of
``bias - mean * g``. The bias stays where it was, as that of a norm whose mean is 0 and whose scale
and variance are 1, so that the variables have the shape of before and the model runs unchanged.
Zeros and ones cost no bytes (`encodings.plain`), and a scale a channel takes up g.

A configuration's own statistics are of the convolution as it was. The folded one gives
``(conv(x) - b) * f`` with ``f = g * sqrt(1 + epsilon)`` and b the convolution's own bias, mostly 0.
So in the folded network a mean m and a variance v become
``f * (m - b - (mean - b) * sqrt(v' + epsilon) / sqrt(1 + epsilon))`` and
``v' = (1 + epsilon) * (v + epsilon) / (var + epsilon) - epsilon``: with them it gives, but for
rounding, what the network gave before with m and v.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def fold_norms(
    variables: Mapping[str, Any],
    sizes: Mapping[str, Any] | None = None,
    *,
    epsilon: float = 1e-5,
) -> dict[str, Any]:
    """Returns variables with the same outputs, but for rounding, whose norms are biases alone.

    A norm belongs to the convolution beside it whose name is the norm's, ``norm`` replaced by
    ``conv``: ``norm1`` to ``conv1``. It must be applied right after it, as in the family `resnet`.
    Others are left as they are.

    Args:
      variables: ``{"params": tree, "batch_stats": tree}``; unchanged.
      sizes: of the structure of the parameters: what each kernel is divided by, in place of being
        multiplied by its norm's factor: so it can be compared with that of another network, which
        it began with. What is then missing is left to the norm as its scale.
      epsilon: that the model's norms add to the variance.
    """
    params, statistics = _folded(
        variables["params"], variables.get("batch_stats", {}), sizes, epsilon
    )
    return {**variables, "params": params, "batch_stats": statistics}


def fold_statistics(
    variables: Mapping[str, Any], own: Mapping[str, Any], *, epsilon: float = 1e-5
) -> dict[str, Any]:
    """Returns a configuration's own statistics as they are in the folded network.

    They are exact, but for rounding, where a channel's variance is at least `epsilon` of the shared
    one. A channel that is so still in this configuration alone gets a variance of 0.

    Args:
      variables: of the network, not folded.
      own: unit -> statistics, of some of its units and norms.
      epsilon: as for `fold_norms`.
    """
    return _folded_statistics(variables["params"], variables["batch_stats"], own, epsilon)


def _folded_statistics(
    params: Mapping[str, Any], shared: Mapping[str, Any], own: Mapping[str, Any], epsilon: float
) -> dict[str, Any]:
    new = dict(own)
    for name, node in own.items():
        if not isinstance(node, Mapping):
            continue
        conv = name.replace("norm", "conv")
        norm = params.get(name)
        if conv == name or not _is_pair(params.get(conv), norm, shared.get(name)):
            new[name] = _folded_statistics(norm or {}, shared.get(name, {}), node, epsilon)
            continue
        scale, mean, var, own_mean, own_var, bias = (
            np.asarray(array, np.float64)
            for array in (
                params[name]["scale"],
                *map(shared[name].get, ("mean", "var")),
                *map(node.get, ("mean", "var")),
                params[conv].get("bias", 0.0),
            )
        )
        factor = scale / np.sqrt(var + epsilon) * np.sqrt(1 + epsilon)
        new_var = np.maximum((1 + epsilon) * (own_var + epsilon) / (var + epsilon) - epsilon, 0)
        ratio = np.sqrt(new_var + epsilon) / np.sqrt(1 + epsilon)
        new_mean = factor * (own_mean - bias - (mean - bias) * ratio)
        new[name] = {"mean": new_mean.astype(np.float32), "var": new_var.astype(np.float32)}
    return new


def _folded(
    params: Mapping[str, Any],
    statistics: Mapping[str, Any],
    sizes: Mapping[str, Any] | None,
    epsilon: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    new_params, new_statistics = dict(params), dict(statistics)
    for name, node in params.items():
        if not isinstance(node, Mapping):
            continue
        conv = name.replace("norm", "conv")
        if conv == name or not _is_pair(params.get(conv), node, statistics.get(name)):
            nested = statistics.get(name, {}), sizes[name] if sizes else None
            new_params[name], below = _folded(new_params[name], *nested, epsilon)
            if name in statistics:
                new_statistics[name] = below
            continue
        scale, bias, mean, var = (
            np.asarray(array, np.float64)
            for array in (node["scale"], node["bias"], *map(statistics[name].get, ("mean", "var")))
        )
        factor = scale / np.sqrt(var + epsilon)
        # The norm that is left divides by this.
        unit = np.sqrt(1 + epsilon)
        folded, left = factor * unit, np.ones_like(factor)
        if sizes:
            folded, left = 1 / np.float64(sizes[conv]["kernel"]), factor * unit
            left = left * sizes[conv]["kernel"]
        kernel = np.asarray(params[conv]["kernel"], np.float64) * folded
        shift = mean - np.asarray(params[conv].get("bias", 0.0), np.float64)
        new_params[conv] = {"kernel": kernel.astype(np.float32)}
        if "bias" in params[conv]:
            new_params[conv]["bias"] = np.zeros(factor.shape, np.float32)
        ones, zeros = (np.full(factor.shape, value, np.float32) for value in (1, 0))
        new_params[name] = {
            "scale": left.astype(np.float32),
            "bias": (bias - shift * factor).astype(np.float32),
        }
        new_statistics[name] = {"mean": zeros, "var": ones}
    return new_params, new_statistics


def _is_pair(conv: Any, norm: Any, statistics: Any) -> bool:
    return (
        isinstance(conv, Mapping)
        and isinstance(norm, Mapping)
        and isinstance(statistics, Mapping)
        and {"kernel"} <= conv.keys() <= {"kernel", "bias"}
        and norm.keys() == {"scale", "bias"}
        and statistics.keys() == {"mean", "var"}
    )


def norms_to_measure(
    variables: Mapping[str, Any], kernels: Mapping[str, Any], *, signed: bool = True
) -> dict[str, Any]:
    """Returns a network with other kernels, whose norms do what they were trained to.

    Rounded kernels give features of another mean and variance than those that a norm was trained
    to bring to its bias and scale. Once the statistics of this network have been measured, its
    norms do so again, and `unit_norms` folds them as far as the kernels can stay.

    Args:
      variables: of the network as it was trained, not folded; unchanged.
      kernels: variables of the network, folded, whose kernels are rounded; unchanged.
      signed: whether kernels took up the sign of their norm's scale: not where they were folded by
        sizes.
    """

    def merged(old: Mapping[str, Any], new: Mapping[str, Any], statistics: Any) -> dict[str, Any]:
        found = dict(new)
        for name, node in old.items():
            if not isinstance(node, Mapping):
                continue
            below = statistics.get(name, {}) if isinstance(statistics, Mapping) else {}
            if name.replace("norm", "conv") != name and _is_pair(
                old.get(name.replace("norm", "conv")), node, below
            ):
                scale = np.asarray(node["scale"])
                found[name] = {
                    "scale": np.abs(scale) if signed else scale,
                    "bias": np.asarray(node["bias"]),
                }
            else:
                found[name] = merged(node, new[name], below)
        return found

    statistics = variables.get("batch_stats", {})
    return {**kernels, "params": merged(variables["params"], kernels["params"], statistics)}


def unit_norms(
    measured: Mapping[str, Any], folded: Mapping[str, Any], *, epsilon: float = 1e-5
) -> dict[str, Any]:
    """Returns a folded network with the norms of a measured one, as a scale and a bias.

    Their means are 0 and their variances 1, which cost no bytes, and the outputs are those that
    measured norms give. All else is that of the folded network.

    Args:
      measured: variables with statistics that were measured, of the same structure; unchanged.
      folded: variables, whose kernels stay; unchanged.
      epsilon: that the model's norms add to the variance.
    """

    def renewed(old: Any, params: Any, statistics: Any) -> tuple[Any, Any]:
        if statistics.keys() == {"mean", "var"} and params.keys() == {"scale", "bias"}:
            scale, bias, mean, var = (
                np.asarray(array, np.float64)
                for array in (
                    *(params["scale"], params["bias"]),
                    *(statistics["mean"], statistics["var"]),
                )
            )
            factor = scale / np.sqrt(var + epsilon)
            new = {"scale": factor * np.sqrt(1 + epsilon), "bias": bias - mean * factor}
            zeros, ones = (np.full(mean.shape, value, np.float32) for value in (0, 1))
            return (
                {name: array.astype(np.float32) for name, array in new.items()},
                {"mean": zeros, "var": ones},
            )
        below = {
            name: renewed(old[name], params[name], each)
            for name, each in statistics.items()
            if isinstance(each, Mapping) and isinstance(params.get(name), Mapping)
        }
        return (
            {**old, **{name: pair[0] for name, pair in below.items()}},
            {**statistics, **{name: pair[1] for name, pair in below.items()}},
        )

    params, statistics = renewed(
        folded["params"], measured["params"], measured.get("batch_stats", {})
    )
    return {**folded, "params": params, "batch_stats": statistics}
