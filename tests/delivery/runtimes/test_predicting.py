import numpy as np
import pytest

from accordion_jax.delivery.errors import ModelError
from accordion_jax.delivery.runtimes.predicting import Predictor
from tests.delivery.forests import write_forest
from tests.delivery.runtimes.test_runtime import write_odd


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    return write_forest(tmp_path_factory.mktemp("forest"))


@pytest.fixture
def predict(make_virtual):
    """Upgrades a device, and gives what a predictor says; `connect` as the command would."""

    def run(bundle, source, upgrade=True):
        device, _ = make_virtual(bundle, 10.0)
        device.connect()
        predictor = Predictor(device, str(source), device.clock.now())
        if upgrade:
            device.upgrade()
        return predictor.finish()

    return run


def test_it_says_which_answers_how_soon_and_how_wrong(forest, predict, tmp_path):
    bundle, classifier, rows, labels = forest
    np.savez(tmp_path / "x.npz", features=rows, labels=labels)
    said = predict(bundle, tmp_path / "x.npz").splitlines()
    answers = classifier.predict(rows)
    assert said[0].startswith("first        prediction 0.")
    assert said[1] == (f"predictions  597 by groups-4: {' '.join(map(str, answers[:10]))} ...")
    assert said[2] == f"measured     error {np.mean(answers != labels):.4f} on these 597 rows"
    assert len(said) == 3


def test_without_labels_nothing_is_measured(forest, predict, tmp_path):
    bundle, classifier, rows, _ = forest
    np.save(tmp_path / "x.npy", rows[:3])
    said = predict(bundle, tmp_path / "x.npy").splitlines()
    answers = " ".join(map(str, classifier.predict(rows[:3])))
    assert said[1:] == [f"predictions  3 by groups-4: {answers}"]


def test_random_examples_are_predicted(forest, predict):
    assert "predictions  16 by groups-4: " in predict(forest[0], "random")


def test_any_terminal_takes_what_it_says(forest, make_virtual):
    device, _ = make_virtual(forest[0], 10.0)
    device.connect()
    predictor = Predictor(device, "random", 0.0)
    predictor._runtimes[-1].problems.append("caf\u00e9 \u2026 \x1b[31m")
    device.upgrade()
    assert "problem      caf\\xe9 \\u2026 \\x1b[31m" in predictor.finish()


def test_where_nothing_has_arrived_it_says_so(forest, predict):
    assert predict(forest[0], "random", upgrade=False) == "predictions  none yet"


def test_where_nothing_can_be_run_it_says_why_and_comes_to_an_end(predict, tmp_path):
    def odd(segments):
        for name in segments:
            segments[name]["values"][0, 0] = np.inf

    bundle, _ = write_odd(tmp_path, odd)
    said = predict(bundle, "random").splitlines()
    assert said[0] == "predictions  none: no configuration can be run"
    assert said[1].startswith("problem      groups-")
    assert said[1].endswith(
        "cannot be run: segment 'base' holds no trees: thresholds or values are not all finite"
    )


def test_a_file_that_is_not_of_the_task_is_refused_before_anything_is_fetched(
    forest, make_virtual, tmp_path
):
    bundle, _, rows, labels = forest
    device, throttled = make_virtual(bundle, 10.0)
    device.connect()
    before = throttled.body_bytes
    np.savez(tmp_path / "x.npz", images=rows, labels=labels)
    with pytest.raises(ValueError, match="wanted 'features', and maybe 'labels'"):
        Predictor(device, str(tmp_path / "x.npz"), 0.0)
    np.savez(tmp_path / "x.npz", features=rows, labels=labels[:, None])
    with pytest.raises(ValueError, match=r"Take the one column: labels\[:, 0\]"):
        Predictor(device, str(tmp_path / "x.npz"), 0.0)
    assert throttled.body_bytes == before


def test_a_kind_of_input_that_is_not_known_is_refused_in_words(make_virtual, tmp_path):
    _, classifier, rows, labels = write_forest(tmp_path)
    from accordion_jax.delivery.bundle.writing import write_bundle
    from tests.docs.examples import load

    parts = load("forest").cut(classifier, 2, rows, labels, dataset="digits", seed=0)
    parts["model"] |= {"input": {"kind": "spectrograms", "bands": 40}}
    device, _ = make_virtual(write_bundle(tmp_path, **parts), 10.0)
    device.connect()
    with pytest.raises(ModelError, match="kind 'spectrograms' is not known here; known: "):
        Predictor(device, "random", 0.0)
