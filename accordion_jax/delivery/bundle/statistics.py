"""Statistics of a configuration's own, beside those that its blocks come with.

Configurations share a block, and so the mean and variance that its batch norms keep. Where a block
sees other inputs in one configuration than in the others, that one may have its own: a unit more,
whose tensors are named as in the network's tree, ``stage2_block01/norm1/mean``. Whoever runs the
configuration loads its other units, and puts these in the place of theirs.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.errors import BundleError, ManifestError
from accordion_jax.system.text import short

_PARAMS = "params"
_VARIANCE = "var"


def unit_of(configuration: str) -> str:
    """Returns what a bundle calls the unit of own statistics.

    Args:
      configuration: of the run's ladder; all numbers of bits of it share one unit.
    """
    return f"statistics-{configuration}"


def shared_name(configuration: str) -> str:
    """Returns the name of a configuration without its own statistics, where it has some."""
    return f"{configuration}.shared"


def check_values(arrays: Mapping[str, np.ndarray]) -> None:
    """Does nothing where own statistics can be those of a network.

    Args:
      arrays: by name of the tensor.

    Raises:
      BundleError: a number is not finite, or a variance is below zero; names the tensor.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise BundleError(f"statistics {name!r} have a number that is not finite")
        if name.rpartition("/")[2] == _VARIANCE and (array < 0).any():
            raise BundleError(
                f"statistics {name!r} have a variance of {float(np.min(array)):g}; wanted 0 or more"
            )


def check_statistics(
    segments: Sequence[Segment],
    ladder: Sequence[Configuration],
    collection: Callable[[str], str],
    source: str,
) -> None:
    """Does nothing where the own statistics of a manifest fit the rest of it.

    Args:
      segments: in sending order; they fit together, own statistics aside.
      ladder: made of these segments.
      collection: name of a tensor -> the collection of variables that it belongs to.
      source: what to call the manifest in errors.

    Raises:
      ManifestError: own statistics come before other segments, are refined or have no layout, are
        needed by another configuration than theirs or not by theirs, or have a tensor that is no
        statistic of a unit of theirs, or of another shape; names them.
    """
    own = [segment for segment in segments if segment.is_statistics]
    if not own:
        return
    by_unit: dict[str, Segment] = {}
    for segment in segments:
        by_unit.setdefault(segment.unit, segment)
    if any(not each.is_statistics for each in segments[-len(own) :]):
        raise ManifestError(
            f"{source}: statistics of configurations, as {own[0].name!r}, must come after all "
            "other segments"
        )
    replaced: dict[int, frozenset[str]] = {}
    for segment in own:
        if segment.layout is None or segment.refines is not None:
            raise ManifestError(
                f"{source}: segment {segment.name!r} is of statistics, and "
                + ("refines others" if segment.refines else "has no layout")
                + "; wanted one packed segment a unit"
            )
        # Of one object for all units of one layout, which is looked at once.
        if id(segment.layout) not in replaced:
            replaced[id(segment.layout)] = _replaced(
                segment.layout, segments[0], by_unit, collection, f"{source}: {segment.name!r}"
            )
    of_segment = {segment.name: segment for segment in segments}
    for configuration in ladder:
        needed = [of_segment[name] for name in configuration.segments]
        has = [segment.unit for segment in needed if segment.is_statistics]
        wanted = [] if configuration.statistics is None else [configuration.statistics]
        if has != wanted:
            raise ManifestError(
                f"{source}: configuration {configuration.name!r} needs the statistics "
                f"{short(has)}, and runs with {short(wanted)}; wanted its own alone"
            )
        if configuration.statistics is None:
            continue
        layout = by_unit[configuration.statistics].layout
        lacking = replaced[id(layout)] - {segment.unit for segment in needed}
        if lacking:
            raise ManifestError(
                f"{source}: {configuration.statistics!r} has statistics of {short(sorted(lacking))}"
                f", which configuration {configuration.name!r} does not keep"
            )


def _replaced(
    layout: Layout,
    base: Segment,
    by_unit: Mapping[str, Segment],
    collection: Callable[[str], str],
    what: str,
) -> frozenset[str]:
    """The units whose statistics a layout replaces; raises ManifestError where it does not fit."""
    units = set()
    for name, shape in layout.shapes.items():
        unit, _, path = name.partition("/")
        found = by_unit.get(unit)
        # Tensors of the base carry the names of its own units.
        in_base = base.layout is not None and name in base.layout.shapes
        if in_base or found is None or found is base or found.is_statistics:
            found, path = base, name
        if collection(name) == _PARAMS:
            raise ManifestError(
                f"{what} has the tensor {name!r}, which is no statistic: it belongs to {_PARAMS!r}"
            )
        units.add(found.unit)
        if found.layout is None:
            continue  # its file says what it holds; whoever runs it looks
        if path not in found.layout.shapes:
            raise ManifestError(
                f"{what} has the tensor {name!r}; there is none of this name in {found.unit!r}"
            )
        if found.layout.shapes[path] != shape:
            raise ManifestError(
                f"{what} has {name!r} of shape {list(shape)}; that of {found.unit!r} has "
                f"{list(found.layout.shapes[path])}"
            )
    return frozenset(units)
