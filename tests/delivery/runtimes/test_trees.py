import dataclasses

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.errors import ModelError
from accordion_jax.delivery.runtimes import make
from tests.delivery.forests import write_forest
from tests.docs.examples import load


@pytest.fixture(scope="module", params=[("forest", 3), ("boosting", 3), ("boosting", 2)], ids=str)
def cut(request, tmp_path_factory):
    """(bundle's folder, classifier, rows): seven trees or rounds, two a segment."""
    model, classes = request.param
    bundle, classifier, rows, _ = write_forest(
        tmp_path_factory.mktemp(model), model, classes=classes
    )
    return bundle, classifier, rows


def run_of(bundle, configuration=-1):
    """The function that runs a configuration of a bundle."""
    manifest = read_manifest(bundle)
    model = make(manifest)
    configuration = manifest.ladder[configuration]
    segments = [
        model.load(name, segment_path(bundle, manifest.by_name[name].sha256).read_bytes())
        for name in configuration.segments
    ]
    return model.compile(configuration, segments, 1)


def scikit_learn(classifier, rows, trees):
    """(outputs, classes) of the first trees, or rounds, as scikit-learn computes them.

    Of boosting with two classes, the outputs are [n, 1]: the second class's.
    """
    if hasattr(classifier, "staged_decision_function"):
        scores = [*classifier.staged_decision_function(rows)][trees - 1]
        return scores, [*classifier.staged_predict(rows)][trees - 1]
    all_trees, every = classifier.estimators_, classifier.n_estimators
    classifier.estimators_, classifier.n_estimators = all_trees[:trees], trees
    try:
        return classifier.predict_proba(rows), classifier.predict(rows)
    finally:
        classifier.estimators_, classifier.n_estimators = all_trees, every


@pytest.mark.parametrize("index", range(4))
def test_every_configuration_computes_what_scikit_learn_does_to_the_last_bit(cut, index):
    bundle, classifier, rows = cut
    outputs = run_of(bundle, index)(rows)
    expected, classes = scikit_learn(classifier, rows, (2, 4, 6, 7)[index])
    np.testing.assert_array_equal(outputs[:, -expected.shape[1] :], expected)
    np.testing.assert_array_equal(outputs.argmax(-1), classes)


def test_rows_on_a_threshold_and_beside_it_go_where_scikit_learn_sends_them(cut):
    bundle, classifier, rows = cut
    rows = rows[:40].copy()
    trees = [tree.tree_ for each in classifier.estimators_ for tree in np.atleast_1d(each)]
    rng = np.random.default_rng(0)
    for row in rows:
        for _ in range(20):
            tree = trees[rng.integers(len(trees))]
            node = rng.integers(tree.node_count)
            if tree.children_left[node] >= 0:
                at = np.float32(tree.threshold[node])
                row[tree.feature[node]] = rng.choice(
                    [at, np.nextafter(at, np.float32(9e9)), np.nextafter(at, np.float32(-9e9))]
                )
    outputs = run_of(bundle)(rows)
    expected, _ = scikit_learn(classifier, rows, 7)
    np.testing.assert_array_equal(outputs[:, -expected.shape[1] :], expected)


@given(threshold=st.floats(-1e30, 1e30), steps=st.integers(-2, 2))
def test_a_threshold_rounded_down_sends_each_float32_the_same_way(threshold, steps):
    rounded = load("forest").round_down(np.array([threshold]))
    assert rounded.dtype == np.float32
    value = np.float32(threshold)
    for _ in range(abs(steps)):
        value = np.nextafter(value, np.float32(np.copysign(np.inf, steps)))
    assert (value <= rounded[0]) == (np.float64(value) <= threshold)


def test_a_score_of_zero_is_the_second_class_as_in_scikit_learn(tmp_path):
    leaf = {
        "trees": np.ones(1, np.int32),
        "feature": np.full(1, -1, np.int32),
        "threshold": np.zeros(1, np.float32),
        "left": np.zeros(1, np.int32),
    }
    bundle, *_ = write_forest(tmp_path, "boosting", classes=2)
    model = make(read_manifest(bundle))
    for score, answer in ((0.0, 1), (-0.0, 1), (-1e-300, 0), (1e-300, 1)):
        arrays = leaf | {"values": np.array([[score]]), "initial": np.zeros(1)}
        group = model.load("base", safetensors.numpy.save(arrays))
        outputs = model.compile(None, [group], 1)(np.zeros((1, 64), np.float32))
        assert outputs.argmax(-1) == [answer]


def test_rows_with_missing_values_are_refused(cut):
    bundle, _, rows = cut
    for odd in (np.nan, np.inf):
        spoilt = rows[:2].copy()
        spoilt[1, 3] = odd
        with pytest.raises(ValueError, match="not finite; trees compare numbers alone"):
            run_of(bundle)(spoilt)


def test_no_rows_have_no_outputs(cut):
    bundle, _, rows = cut
    assert run_of(bundle)(rows[:0]).shape[0] == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(model, arrays of its base): a forest of three classes."""
    bundle, *_ = write_forest(tmp_path_factory.mktemp("sound"), classes=3)
    manifest = read_manifest(bundle)
    content = segment_path(bundle, manifest.segments[0].sha256).read_bytes()
    return make(manifest), safetensors.numpy.load(content)


def _put(name, index, value):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][index] = value

    return change


def _set(name, change_of):
    def change(arrays):
        arrays[name] = change_of(arrays[name])

    return change


def _endless(arrays):
    # A second parent for the root's left child's children: ways would double at each level.
    arrays["left"] = arrays["left"].copy()
    arrays["left"][1] = arrays["left"][0]


def _deep(arrays):
    nodes = 2 * 1001 + 1
    inner = np.arange(nodes) % 2 == 0
    inner[-1] = False
    index = np.arange(nodes, dtype=np.int32)
    arrays |= {
        "trees": np.array([nodes], np.int32),
        "feature": np.where(inner, 0, -1).astype(np.int32),
        "threshold": np.zeros(nodes, np.float32),
        # Each inner node has a leaf and the next inner node below it.
        "left": np.where(inner, index + 1, 0).astype(np.int32),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_put("left", 0, 0), "a child lies before its parent"),
        (_put("left", 0, -1), "a child lies before its parent"),
        (_put("left", 0, 2**31 - 1), "or outside its tree"),
        (_endless, "a child lies before its parent, or|a node has no parent, or two"),
        (_put("left", 0, 3), "a node has no parent, or two"),
        (_deep, "deeper than 1000 comparisons"),
        (_put("feature", 0, 64), "there are 64, from 0"),
        (_put("feature", 0, -2), "nodes compare features -2"),
        (_put("feature", 0, -1), "a node has no parent|leaves answer with rows"),
        (_put("left", -1, 10**6), "leaves answer with rows"),
        (_put("left", -1, -1), "leaves answer with rows -1"),
        (_put("threshold", 0, np.inf), "not all finite"),
        (_put("threshold", 0, np.nan), "not all finite"),
        (_put("values", (0, 0), np.nan), "not all finite"),
        (_put("trees", 0, 0), "nodes together"),
        (_put("trees", 0, -5), "nodes together"),
        (_put("trees", 0, 2**31 - 1), "nodes together"),
        (_set("trees", lambda a: a[:0]), "nodes together"),
        (_set("trees", lambda a: a.astype(np.int64)), "'trees' is int64 with 1 axes; wanted int32"),
        (_set("threshold", lambda a: a.astype(np.float64)), "'threshold' is float64"),
        (_set("threshold", lambda a: a[:-1]), "'threshold' has the shape"),
        (_set("left", lambda a: a[None]), "'left' is int32 with 2 axes"),
        (_set("values", lambda a: a[:, :2]), "'values' has the shape"),
        (_set("values", lambda a: a[:0]), "leaves answer with rows"),
        (lambda a: a.pop("left"), "the arrays are"),
        (lambda a: a.update(more=np.zeros(1)), "the arrays are"),
        (lambda a: a.update(initial=np.zeros(3)), "'initial' is for"),
    ],
)
def test_damage_and_malice_are_refused_in_words(sound, change, message):
    model, arrays = sound
    arrays = dict(arrays)
    change(arrays)
    with pytest.raises(ModelError, match="segment 'base' holds no trees: ") as error:
        model.load("base", safetensors.numpy.save(arrays))
    assert any(each in str(error.value) for each in message.split("|")), error.value


@pytest.mark.parametrize("content", [b"", b"junk" * 9, b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}"])
def test_what_is_no_safetensors_file_is_refused_in_words(sound, content):
    with pytest.raises(ModelError, match="segment 'base' holds no trees: "):
        sound[0].load("base", content)


@given(data=st.data())
def test_whatever_its_integers_say_a_segment_is_refused_or_runs_to_an_end(sound, data):
    model, arrays = sound
    arrays = {name: array.copy() for name, array in arrays.items()}
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(["trees", "feature", "left"]))
        index = data.draw(st.integers(0, len(arrays[name]) - 1))
        arrays[name][index] = data.draw(st.integers(-2, 70) | st.integers(-(2**31), 2**31 - 1))
    try:
        group = model.load("base", safetensors.numpy.save(arrays))
    except ModelError:
        return
    outputs = model.compile(None, [group], 1)(np.zeros((3, 64), np.float32))
    assert outputs.shape == (3, 3)
    assert np.isfinite(outputs).all()


def test_boosting_wants_whole_rounds_and_its_beginning(tmp_path):
    bundle, *_ = write_forest(tmp_path, "boosting", classes=3)
    manifest = read_manifest(bundle)
    model = make(manifest)
    base, second = (
        safetensors.numpy.load(segment_path(bundle, segment.sha256).read_bytes())
        for segment in manifest.segments[:2]
    )
    with pytest.raises(ModelError, match="'initial' is for the first segment"):
        model.load("base", safetensors.numpy.save(second))
    with pytest.raises(ModelError, match=r"'initial' has the shape \(2,\); wanted \(3,\)"):
        model.load("base", safetensors.numpy.save(base | {"initial": np.zeros(2)}))
    nodes = second["trees"][:2].sum()
    cut_short = {
        name: array[:2] if name == "trees" else array if name == "values" else array[:nodes]
        for name, array in second.items()
    }
    with pytest.raises(ModelError, match="2 trees; wanted whole rounds, of 3 trees each"):
        model.load("trees001", safetensors.numpy.save(cut_short))


def test_leaves_with_equal_answers_share_a_row(sound):
    _, arrays = sound
    assert len(arrays["values"]) < np.sum(arrays["feature"] < 0)
    assert len(np.unique(arrays["values"], axis=0)) == len(arrays["values"])


def test_blocks_of_rows_do_not_matter(tmp_path):
    bundle, classifier, rows, _ = write_forest(tmp_path)
    rows = np.resize(rows, (700, 64))
    np.testing.assert_array_equal(run_of(bundle)(rows), classifier.predict_proba(rows))


def test_a_runtime_refuses_a_kind_of_input_that_is_not_its_own(tmp_path):
    manifest = read_manifest(write_forest(tmp_path)[0])
    images = {"kind": "images", "shape": [8, 8, 1], "mean": [0.5], "std": [0.5]}
    odd = dataclasses.replace(manifest, model=manifest.model | {"input": images})
    with pytest.raises(ModelError, match="Trees does not run models whose input is of kind 'ima"):
        make(odd)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "oak"}, "trees of the family 'oak' are not known; known: forest, boosting"),
        ({"arguments": {}}, "arguments.classes=None; wanted how many there are, 2 or more"),
        ({"arguments": {"classes": True}}, "arguments.classes=True"),
        ({"arguments": {"classes": 1}}, "arguments.classes=1"),
        ({"arguments": {"classes": "3"}}, "arguments.classes='3'"),
        ({"input": {"kind": "features", "shape": [0]}}, "wanted"),
    ],
)
def test_a_description_of_no_trees_is_refused_in_words(tmp_path, changes, message):
    manifest = read_manifest(write_forest(tmp_path)[0])
    with pytest.raises(ModelError) as error:
        make(dataclasses.replace(manifest, model=manifest.model | changes))
    assert message in str(error.value)
