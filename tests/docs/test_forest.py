"""docs/examples/forest.py, run as a person would."""

import re
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax.delivery.bundle.reading import verify_bundle
from accordion_jax.delivery.bundle.writing import write_bundle
from tests.commands import ROOT, command_environment
from tests.docs.examples import load


def run(*flags):
    return subprocess.run(
        [sys.executable, "docs/examples/forest.py", *flags],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("model", ["forest", "boosting"])
def test_it_writes_a_sound_bundle_whose_table_is_what_scikit_learn_measures(tmp_path, model):
    done = run(f"--out={tmp_path}", f"--model={model}", "--trees=5", "--group=2")
    assert done.returncode == 0, done.stderr
    [bundle] = [path for path in tmp_path.iterdir() if path.is_dir()]
    manifest = verify_bundle(bundle)
    forest = load("forest")
    (rows, labels), _ = forest.split_digits(0)
    classifier = forest.make_classifier(model, 5, 0).fit(rows, labels)
    with np.load(tmp_path / "heldout.npz") as heldout:
        rows, labels = heldout["features"], heldout["labels"]
    assert [row.examples for row in manifest.table.rows] == [597] * 3
    for trees, row in zip((2, 4, 5), manifest.table.rows, strict=True):
        if model == "boosting":
            answers = [*classifier.staged_predict(rows)][trees - 1]
        else:
            kept = classifier.estimators_[:trees]
            answers = sum(tree.predict_proba(rows) for tree in kept).argmax(-1)
        assert row.errors == np.sum(answers != labels)
        assert f"{row.configuration:<13}" in done.stdout
        assert f"{row.top1_error:.4f}" in done.stdout
    depths = [tree.tree_.max_depth for tree in np.ravel(classifier.estimators_)]
    assert manifest.table.full.macs == sum(depths)
    # The same model makes the same bundle.
    parts = forest.cut(classifier, 2, rows, labels, dataset="digits", seed=0)
    assert write_bundle(tmp_path, **parts) == bundle
    # What it says to do next names what is there.
    [path] = re.findall(r"--predict=(\S+)", done.stdout)
    assert path == str(tmp_path / "heldout.npz")


def test_what_cannot_be_cut_is_refused_in_words(tmp_path):
    done = run(f"--out={tmp_path}", "--trees=3", "--group=3")
    assert done.returncode == 1
    assert "error: group=3 of 3 trees makes one segment; wanted at least 2" in done.stderr
    assert not list(tmp_path.iterdir())


def test_boosting_that_begins_with_a_model_is_refused():
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    forest = load("forest")
    (rows, labels), held_out = forest.split_digits(0)
    classifier = GradientBoostingClassifier(
        n_estimators=2, init=LogisticRegression(max_iter=5, tol=10.0)
    ).fit(rows[:200], labels[:200])
    with pytest.raises(ValueError, match="wanted None or 'zero', the same for all rows"):
        forest.cut(classifier, 1, *held_out, dataset="digits", seed=0)
