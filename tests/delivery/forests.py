"""Bundles of small forests and boosted trees, cut as docs/examples/forest.py cuts them."""

import functools

from accordion_jax.delivery.bundle.writing import write_bundle
from tests.docs.examples import load


@functools.cache
def trained(model="forest", trees=7, classes=10):
    """(classifier, rows, labels): trained on digits of so many classes; rows were held out."""
    forest = load("forest")
    (rows, labels), (held_out, answers) = forest.split_digits(seed=0)
    classifier = forest.make_classifier(model, trees, seed=0)
    classifier.fit(rows, labels % classes)
    return classifier, held_out, answers % classes


def write_forest(folder, model="forest", *, trees=7, group=2, classes=10):
    """(bundle's folder, classifier, rows, labels)."""
    classifier, rows, labels = trained(model, trees, classes)
    parts = load("forest").cut(classifier, group, rows, labels, dataset="digits", seed=0)
    return write_bundle(folder, **parts), classifier, rows, labels
