"""Forests and boosted trees as arrays, run by NumPy alone.

A segment is a group of trees in their order, so that a configuration is the first k trees. Its
arrays, where a group has T trees of N nodes together:

* ``trees``: [T] int32, nodes a tree. Each tree's nodes follow one another, the root first and every
  child after its parent.
* ``feature``: [N] int32, which feature a node compares; -1 at a leaf.
* ``threshold``: [N] float32. A row goes left where feature <= threshold. float64 thresholds are
  rounded *down* to float32: no float32 feature then goes another way.
* ``left``: [N] int32, the left child, counted in its tree; the right one is the next node. At a
  leaf: the row of ``values`` that it answers with.
* ``values``: [rows, width] float64; leaves with equal answers may share a row.

Family ``forest``: width is the number of classes, and outputs are the mean over the trees.

Family ``boosting``: width is 1, outputs are the sum over the trees, on top of ``initial`` in the
first segment. With more than two classes a round has one tree a class, the first class's first, and
``initial`` is [classes]; with two classes a round is one tree, ``initial`` is [1], and the sum is
the second class's score.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import safetensors
import safetensors.numpy

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.errors import ModelError
from accordion_jax.tasks import Task

_FAMILIES = ("forest", "boosting")
_DTYPES = {
    "trees": np.int32,
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "values": np.float64,
    "initial": np.float64,
}
_NO_FEATURE = -1
# Far deeper than any tree that was learnt: a bound on the time that a row takes.
_MAX_DEPTH = 1000
# Rows at a time: what they need then stays in a processor's cache.
_BLOCK_ROWS = 256
# Levels between two looks at who has reached a leaf: a look costs about half a level.
_LEVELS = 4
# Scores of two classes are compared with this: a score of 0 is the second class's, as in
# scikit-learn. The smallest normal number, since processors may be told to take smaller ones for 0.
_BELOW_ZERO = -np.finfo(np.float64).tiny


@dataclasses.dataclass(frozen=True)
class Group:
    """A segment's trees, with nodes numbered through the group; checked.

    Attributes:
      roots: [trees] intp.
      feature: [nodes] intp; 0 at a leaf.
      threshold: [nodes] float32; infinity at a leaf.
      left: [nodes] intp; a leaf itself at a leaf, where a row thus stays.
      is_leaf: [nodes] bool.
      row: [nodes] intp, into `values`; 0 at other nodes.
      values: [rows, width] float64.
      depth: comparisons of the longest way.
      initial: [columns] float64; None where the segment has none.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    is_leaf: np.ndarray
    row: np.ndarray
    values: np.ndarray
    depth: int
    initial: np.ndarray | None


class Trees:
    """A forest, or boosted trees; see `contract.Model`."""

    kinds: ClassVar[frozenset[str] | None] = frozenset({"features"})

    def __init__(self, manifest: Manifest, task: Task):
        self.task = task
        self._family = manifest.model["family"]
        if self._family not in _FAMILIES:
            raise ModelError(
                f"trees of the family {self._family!a} are not known; known: {', '.join(_FAMILIES)}"
            )
        classes = manifest.model["arguments"].get("classes")
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise ModelError(f"arguments.classes={classes!a}; wanted how many there are, 2 or more")
        self._classes = classes
        # One score for two classes: that of the second.
        self._columns = 1 if self._family == "boosting" and classes == 2 else classes
        self._base = manifest.segments[0].name

    def load(self, name: str, content: bytes, refined: Any = None) -> Group:
        """Returns a segment's trees; there is nothing that would refine others.

        Raises:
          ModelError: the bytes are no safetensors, or the arrays no trees of this model: an array
            of another shape or type, an index out of bounds, a node with no parent or with two, a
            child before its parent, a value that is not finite.
        """
        del refined
        try:
            return self._group(name, content)
        except ModelError as error:
            raise ModelError(f"segment {name!r} holds no trees: {error}") from error

    def compile(
        self, configuration: Configuration, segments: Sequence[Any], batch_size: int
    ) -> Callable[[Any], np.ndarray]:
        """Returns the function from [batch, features] float32 to [batch, classes] float64.

        It raises ValueError where a feature is not finite.
        """
        del configuration, batch_size  # Any set of groups runs, on any batch.
        groups = tuple(segments)

        def run(features: np.ndarray) -> np.ndarray:
            if not np.isfinite(features).all():
                raise ValueError(
                    "features have values that are not finite; trees compare numbers alone: fill "
                    "in what is missing"
                )
            outputs = np.empty((len(features), self._columns))
            for start in range(0, len(features), _BLOCK_ROWS):
                block = features[start : start + _BLOCK_ROWS]
                outputs[start : start + len(block)] = self._outputs(groups, block)
            if self._columns == self._classes:
                return outputs
            return np.concatenate([np.full_like(outputs, _BELOW_ZERO), outputs], axis=1)

        return run

    def _outputs(self, groups: Sequence[Group], features: np.ndarray) -> np.ndarray:
        """[rows, columns] float64; added up tree by tree, so that groups do not matter."""
        outputs = np.zeros((self._columns, len(features)))
        if groups[0].initial is not None:
            outputs += groups[0].initial[:, None]
        for group in groups:
            rows = group.row.take(_leaves(group, features))
            if self._family == "forest":
                for rows_of_tree in rows:
                    outputs += group.values.take(rows_of_tree, axis=0).T
            else:
                for rows_of_round in rows.reshape(-1, *outputs.shape):
                    outputs += group.values[:, 0].take(rows_of_round)
        if self._family == "forest":
            outputs /= sum(len(group.roots) for group in groups)
        return outputs.T

    def _group(self, name: str, content: bytes) -> Group:
        arrays = _arrays(content)
        initial = arrays.pop("initial", None)
        if (initial is not None) != (self._family == "boosting" and name == self._base):
            raise ModelError(
                "'initial' is for the first segment of boosted trees, and for no other"
            )
        if initial is not None:
            _check_shape("initial", initial, (self._columns,))
        nodes, trees = len(arrays["feature"]), arrays["trees"].astype(np.int64)
        for each in ("threshold", "left"):
            _check_shape(each, arrays[each], (nodes,))
        width = self._classes if self._family == "forest" else 1
        _check_shape("values", arrays["values"], (len(arrays["values"]), width))
        if not len(trees) or trees.min() < 1 or trees.sum() != nodes:
            raise ModelError(f"trees have {trees.sum()} nodes together; the arrays have {nodes}")
        if self._family == "boosting" and len(trees) % self._columns:
            raise ModelError(
                f"{len(trees)} trees; wanted whole rounds, of {self._columns} trees each"
            )
        numbers = [arrays["threshold"], arrays["values"], *([] if initial is None else [initial])]
        if not all(np.isfinite(array).all() for array in numbers):
            raise ModelError("thresholds or values are not all finite")
        return self._linked(arrays, trees, initial)

    def _linked(
        self, arrays: dict[str, np.ndarray], trees: np.ndarray, initial: np.ndarray | None
    ) -> Group:
        """Numbers nodes through the group, and checks that they are trees."""
        feature, left = (arrays[each].astype(np.intp) for each in ("feature", "left"))
        ends = np.cumsum(trees)
        roots = ends - trees
        start, end = (np.repeat(each, trees) for each in (roots, ends))
        index, is_leaf = np.arange(len(feature)), feature == _NO_FEATURE
        features = self.task.inputs.shape[0]
        if feature.min() < _NO_FEATURE or feature.max() >= features:
            raise ModelError(
                f"nodes compare features {feature[~is_leaf].min()} to {feature.max()}; there are "
                f"{features}, from 0"
            )
        child = np.where(is_leaf, index, left + start)
        inner = child[~is_leaf]
        if (inner <= index[~is_leaf]).any() or (inner + 1 >= end[~is_leaf]).any():
            raise ModelError("a child lies before its parent, or outside its tree")
        parents = np.bincount(inner, minlength=len(index))
        parents[1:] += np.bincount(inner, minlength=len(index))[:-1]
        is_root = np.zeros(len(index), np.intp)
        is_root[roots] = 1
        if (parents + is_root != 1).any():
            raise ModelError("a node has no parent, or two")
        row, rows = np.where(is_leaf, left, 0), len(arrays["values"])
        if row.min() < 0 or row.max() >= rows:
            raise ModelError(f"leaves answer with rows {row.min()} to {row.max()} of {rows} values")
        return Group(
            roots=roots,
            feature=np.where(is_leaf, 0, feature),
            threshold=np.where(is_leaf, np.float32(np.inf), arrays["threshold"]),
            left=child,
            is_leaf=is_leaf,
            row=row,
            values=arrays["values"],
            depth=_depth(roots, child, is_leaf),
            initial=initial,
        )


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a segment, each of its type and number of axes."""
    try:
        arrays = safetensors.numpy.load(content)
    # What the library raises at a header that is wrong depends on what is wrong.
    except Exception as error:
        raise ModelError(f"its bytes are no safetensors file that can be read: {error}") from error
    missing = _DTYPES.keys() - {"initial"} - arrays.keys()
    if missing or arrays.keys() - _DTYPES.keys():
        raise ModelError(f"the arrays are {sorted(arrays)}; wanted {sorted(_DTYPES)}")
    for name, array in arrays.items():
        axes = 2 if name == "values" else 1
        if array.dtype != _DTYPES[name] or array.ndim != axes:
            raise ModelError(
                f"{name!r} is {array.dtype} with {array.ndim} axes; wanted "
                f"{np.dtype(_DTYPES[name])} with {axes}"
            )
    return arrays


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ModelError(f"{name!r} has the shape {array.shape}; wanted {shape}")


def _depth(roots: np.ndarray, left: np.ndarray, is_leaf: np.ndarray) -> int:
    """Comparisons of the longest way from a root; each node has one parent, so it ends."""
    level, depth = roots, 0
    while len(level := level[~is_leaf[level]]):
        depth += 1
        if depth > _MAX_DEPTH:
            raise ModelError(f"a tree is deeper than {_MAX_DEPTH} comparisons")
        level = np.concatenate([left[level], left[level] + 1])
    return depth


def _leaves(group: Group, features: np.ndarray) -> np.ndarray:
    """[trees, rows] intp: the leaf that each row reaches in each tree.

    All pairs of tree and row go down a level together. Now and then, those that have reached a leaf
    are set aside, if they are many.
    """
    rows, width = features.shape
    flat = np.ascontiguousarray(features).ravel()
    node = np.repeat(group.roots, rows)
    offset = np.tile(np.arange(rows) * width, len(group.roots))
    found = np.empty(len(node), np.intp)
    pair = np.arange(len(node))
    for level in range(1, group.depth + 1):
        where = group.feature.take(node)
        where += offset
        goes_right = flat.take(where) > group.threshold.take(node)
        node = group.left.take(node)
        node += goes_right
        if level % _LEVELS:
            continue
        going = np.flatnonzero(~group.is_leaf.take(node))
        if len(going) < 0.75 * len(node):
            found[pair] = node
            node, offset, pair = node.take(going), offset.take(going), pair.take(going)
    found[pair] = node
    return found.reshape(len(group.roots), rows)
