"""Cuts scikit-learn's forests and boosted trees into bundles that are sent tree by tree.

  python docs/examples/forest.py --out=bundles [--model=boosting] [--trees=100] [--time]

Trains on scikit-learn's digits (1,200 rows; the other 597 are held out), measures the error of each
configuration, and writes a bundle, and the held-out rows as OUT/heldout.npz. A segment is a group
of trees, in the order in which they were grown; a configuration is the first k groups. A device
then needs NumPy only, and predicts what scikit-learn predicts.

In the look-up table a block is a group of trees, and ``macs`` are comparisons for one example, at
most: the depths of the trees added up.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from accordion_jax import tasks
from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.reading import segment_path, verify_bundle
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.depth import Configuration, Ladder, LookupTable, UnitCost, make_row
from accordion_jax.system.files import replacing

Classifier = RandomForestClassifier | GradientBoostingClassifier


def main() -> None:
    """Trains, cuts, writes and prints a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of bundles")
    parser.add_argument("--model", choices=["forest", "boosting"], default="forest")
    parser.add_argument("--trees", type=int, default=100, help="or rounds of boosting")
    parser.add_argument("--group", type=int, default=10, help="trees, or rounds, in a segment")
    parser.add_argument("--seed", type=int, default=0, help="of training and of the split")
    parser.add_argument("--time", action="store_true", help="compare with scikit-learn's time")
    options = parser.parse_args()
    (rows, labels), heldout = split_digits(options.seed)
    try:
        classifier = make_classifier(options.model, options.trees, options.seed)
        classifier.fit(rows, labels)
        parts = cut(classifier, options.group, *heldout, dataset="digits", seed=options.seed)
        bundle = write_bundle(options.out, **parts)
        data = options.out / "heldout.npz"
        with replacing(data) as path:
            np.savez(path, features=heldout[0], labels=heldout[1])
    except (DeliveryError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(summary(bundle, data))
    if options.time:
        print(timings(bundle, classifier, heldout[0]))


def split_digits(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns (rows [n, 64] float32, labels [n]) to train on, and those that are held out."""
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(rows))
    rows, labels = rows[order].astype(np.float32), labels[order]
    return (rows[:1200], labels[:1200]), (rows[1200:], labels[1200:])


def make_classifier(model: str, trees: int, seed: int) -> Classifier:
    """Returns a classifier that is not trained yet."""
    if model == "forest":
        return RandomForestClassifier(trees, random_state=seed)
    return GradientBoostingClassifier(n_estimators=trees, random_state=seed)


def cut(
    classifier: Classifier,
    group: int,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    dataset: str,
    seed: int,
) -> dict[str, Any]:
    """Returns the arguments of `write_bundle` for a trained classifier.

    Args:
      classifier: trained on rows with no missing values.
      group: trees, or rounds of boosting, in a segment.
      rows: [n, features] float32, held out: the table's errors are measured on them.
      labels: [n], numbers of classes.
      dataset: name, for the provenance.
      seed: likewise.

    Raises:
      ValueError: all trees are in one group; or as `initial_scores`.
    """
    if group < 1:
        raise ValueError(f"group={group}; wanted trees in a segment, 1 or more")
    rounds = [np.atleast_1d(each) for each in classifier.estimators_]
    groups = [rounds[start : start + group] for start in range(0, len(rounds), group)]
    if len(groups) < 2:
        raise ValueError(
            f"group={group} of {len(rounds)} trees makes one segment; wanted at least 2"
        )
    boosted = isinstance(classifier, GradientBoostingClassifier)
    scale = classifier.learning_rate if boosted else None
    names = ["base", *(f"trees{index:03d}" for index in range(1, len(groups)))]
    segments = {
        name: group_arrays([tree for each in rounds_of_it for tree in each], scale)
        for name, rounds_of_it in zip(names, groups, strict=True)
    }
    if boosted:
        segments["base"]["initial"] = initial_scores(classifier)
    costs = [
        UnitCost(
            sum(array.size for array in segments[name].values()),
            sum(array.nbytes for array in segments[name].values()),
            sum(int(tree.tree_.max_depth) for each in rounds_of_it for tree in each),
        )
        for name, rounds_of_it in zip(names, groups, strict=True)
    ]
    ladder = make_ladder(len(groups))
    outputs = [*staged_probabilities(classifier, rows)]
    table_rows = []
    for configuration in ladder:
        trees = min(group * (configuration.depth + 1), len(rounds))
        probabilities = outputs[trees - 1]
        right = np.clip(probabilities[np.arange(len(labels)), labels], 1e-15, 1)
        table_rows.append(
            make_row(
                ladder,
                configuration,
                base=costs[0],
                blocks=tuple(costs[1:]),
                examples=len(labels),
                errors=int(np.sum(probabilities.argmax(-1) != labels)),
                cross_entropy=float(-np.mean(np.log(right))),
            )
        )
    facts = {"scheme": "trees", "dataset": dataset, "split": "held out", "seed": seed}
    return {
        "segments": segments,
        "ladder": [
            {"name": c.name, "segments": names[: c.depth + 1], "skip_mask": c.skip_mask}
            for c in ladder
        ],
        "model": {
            "runtime": "trees",
            "family": "boosting" if boosted else "forest",
            "arguments": {"classes": len(classifier.classes_)},
            "input": tasks.describe(tasks.Features((rows.shape[1],))),
            "classes": [str(name) for name in classifier.classes_],
        },
        "table": LookupTable(tuple(table_rows), facts),
        "provenance": facts | {"made by": type(classifier).__name__, "macs": "comparisons"},
    }


def make_ladder(groups: int) -> Ladder:
    """Returns the ladder of which each step adds a group; the first group is the base."""
    blocks = groups - 1
    configurations = (
        Configuration(f"groups-{kept + 1}", tuple(block >= kept for block in range(blocks)))
        for kept in range(groups)
    )
    return Ladder("trees", (blocks,), tuple(configurations))


def group_arrays(trees: Sequence[Any], scale: float | None) -> dict[str, np.ndarray]:
    """Returns the arrays of some trees, as `accordion_jax.delivery.runtimes.trees` has them.

    Args:
      trees: of scikit-learn, in their order.
      scale: that boosting multiplies each tree's answer by; None for the trees of a forest.
    """
    found: dict[str, list[np.ndarray]] = {"feature": [], "threshold": [], "left": []}
    answers: dict[bytes, int] = {}
    for tree in (each.tree_ for each in trees):
        order = breadth_first(tree)
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        is_leaf = tree.children_left[order] < 0
        values = tree.value[order, 0] * (1.0 if scale is None else scale)
        rows = [answers.setdefault(value.tobytes(), len(answers)) for value in values[is_leaf]]
        left = place[tree.children_left[order]]  # of a leaf: any; it is replaced
        left[is_leaf] = rows
        found["feature"].append(np.where(is_leaf, -1, tree.feature[order]))
        found["threshold"].append(np.where(is_leaf, 0, round_down(tree.threshold[order])))
        found["left"].append(left)
    return {
        "trees": np.array([each.tree_.node_count for each in trees], np.int32),
        "feature": np.concatenate(found["feature"]).astype(np.int32),
        "threshold": np.concatenate(found["threshold"]).astype(np.float32),
        "left": np.concatenate(found["left"]).astype(np.int32),
        "values": np.stack([np.frombuffer(answer) for answer in answers]),
    }


def breadth_first(tree: Any) -> list[int]:
    """Returns the nodes of a tree so that the children of each lie side by side, after it."""
    order = [0]
    for node in order:  # which grows meanwhile
        if tree.children_left[node] >= 0:
            order += [tree.children_left[node], tree.children_right[node]]
    return order


def round_down(thresholds: np.ndarray) -> np.ndarray:
    """Returns the largest float32 at most each float64: x <= t is the same for any float32 x."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def initial_scores(classifier: GradientBoostingClassifier) -> np.ndarray:
    """Returns the scores that boosting begins with: [1], or [classes] where there are more than 2.

    Raises:
      ValueError: they depend on the row, which no array can hold.
    """
    if not (classifier.init_ == "zero" or isinstance(classifier.init_, DummyClassifier)):
        raise ValueError(f"init={classifier.init_}: wanted None or 'zero', the same for all rows")
    # scikit-learn has no public name for what its trees are added to.
    none = np.zeros((1, classifier.n_features_in_), np.float32)
    return np.asarray(classifier._raw_predict_init(none), np.float64)[0]


def staged_probabilities(classifier: Classifier, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields [n, classes] probabilities after each tree, or round."""
    if isinstance(classifier, GradientBoostingClassifier):
        yield from classifier.staged_predict_proba(rows)
        return
    total = np.zeros((len(rows), len(classifier.classes_)))
    for count, tree in enumerate(classifier.estimators_, 1):
        total += tree.predict_proba(rows)
        yield total / count


def summary(bundle: pathlib.Path, data: pathlib.Path) -> str:
    """Returns a table of the bundle's configurations, and what to do next."""
    manifest = verify_bundle(bundle)
    lines = [f"{bundle}", "", "configuration    bytes sent  comparisons   error"]
    sent = 0
    for segment, row in zip(manifest.segments, manifest.table.rows, strict=True):
        sent += segment.size_bytes
        lines.append(f"{row.configuration:<13}  {sent:>12,}  {row.macs:>11,}  {row.top1_error:.4f}")
    return "\n".join(
        [
            *lines,
            "",
            "next: python -m accordion_jax.serve --bundles=" + str(bundle.parent),
            f"      python -m accordion_jax.fetch http://127.0.0.1:8000 --predict={data}",
        ]
    )


def timings(bundle: pathlib.Path, classifier: Classifier, rows: np.ndarray) -> str:
    """Returns milliseconds of the full model for some numbers of rows; the median of 15 calls."""
    manifest = verify_bundle(bundle)
    model = runtimes.make(manifest)
    segments = [
        model.load(segment.name, segment_path(bundle, segment.sha256).read_bytes())
        for segment in manifest.segments
    ]
    ours = model.compile(manifest.ladder[-1], segments, 1)
    boosted = isinstance(classifier, GradientBoostingClassifier)
    theirs = classifier.decision_function if boosted else classifier.predict_proba
    lines = ["", " rows  scikit-learn       ours  ratio"]
    for count in (1, 16, 250, 5000):
        some = np.resize(rows, (count, rows.shape[1]))
        theirs_ms, ours_ms = (_median_ms(each, some) for each in (theirs, ours))
        lines.append(
            f"{count:>5}  {theirs_ms:9.2f} ms {ours_ms:7.2f} ms  {ours_ms / theirs_ms:5.2f}"
        )
    return "\n".join(lines)


def _median_ms(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> float:
    function(rows)
    times_s = []
    for _ in range(15):
        start_s = time.perf_counter()
        function(rows)
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * statistics.median(times_s)


if __name__ == "__main__":
    main()
