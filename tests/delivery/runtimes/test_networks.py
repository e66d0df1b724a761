import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn

from accordion_jax import tasks
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.variables import Loaded, load_segment, load_variables
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import BundleError, ModelError
from accordion_jax.delivery.runtimes import make, networks
from accordion_jax.delivery.runtimes.networks import error_rate
from tests.delivery.forests import write_forest
from tests.delivery.resnets import INPUT, make_images, write_resnet
from tests.delivery.toys import make_parts

WAIT_S = 60


@pytest.fixture(scope="module", params=["coml", "blockcoml"])
def resnet(request, tmp_path_factory):
    """(bundle, model, variables) of a ResNet of three blocks."""
    return write_resnet(tmp_path_factory.mktemp("resnet"), request.param)


def trained(model, variables, skip_mask, images):
    """Logits of the trained model under a skip mask."""
    inputs = tasks.from_description(INPUT).prepare(images)
    apply = jax.jit(lambda v, x: model.apply(v, x, skip_mask=tuple(skip_mask)))
    return np.asarray(apply(variables, inputs))


def test_after_every_prefix_of_the_sending_order_predictions_are_the_trained_models(
    resnet, make_virtual, running
):
    bundle, model, variables = resnet
    images = make_images(4)
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    runtime = running(device, batch_sizes=(4,))
    device.add_listener(lambda event: device.stop() if event.kind == "segment" else None)
    seen = []
    for count in range(1, len(manifest.segments) + 1):
        # One segment each time, be it in the middle of a configuration.
        device.upgrade()
        assert len(device.holding.held) == count
        wanted = [c for c in manifest.ladder if len(c.segments) <= count][-1]
        assert runtime.wait(WAIT_S, configuration=wanted.name), runtime.problems
        prediction = runtime.predict(images)
        assert prediction.configuration == wanted.name
        assert prediction.expected_error == manifest.rows[wanted.name].top1_error
        expected = trained(model, variables, wanted.skip_mask, images)
        np.testing.assert_array_equal(prediction.outputs, expected)
        seen.append(expected)
    assert not np.array_equal(seen[0], seen[-1])
    assert runtime.problems == []


def test_an_unusual_batch_size_is_compiled_when_asked_for(resnet, make_virtual, running):
    bundle, model, variables = resnet
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    device.upgrade()
    runtime = running(device)
    full = manifest.ladder[-1]
    assert runtime.wait(WAIT_S, configuration=full.name)
    images = make_images(3)
    expected = trained(model, variables, full.skip_mask, images)
    np.testing.assert_array_equal(runtime.predict(images).outputs, expected)


def test_loading_holds_the_model_and_one_segment(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=7, width=500))
    manifest = read_manifest(bundle)
    one = max(segment.size_bytes for segment in manifest.segments)
    tracemalloc.start()
    try:
        loaded = load_variables(manifest, lambda sha: segment_path(bundle, sha).read_bytes())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(loaded["params"]) == 7 + 1
    # One segment twice: its file, and what the safetensors library copies from it.
    assert manifest.size_bytes < peak + one
    assert peak < manifest.size_bytes + 2 * one + 200_000


def full_of(bundle):
    """(manifest, variables of the full model) of a bundle."""
    manifest = read_manifest(bundle)
    return manifest, load_variables(manifest, lambda sha: segment_path(bundle, sha).read_bytes())


def test_the_error_rate_counts_what_the_model_gets_wrong(resnet):
    bundle, model, variables = resnet
    images = make_images(7)
    labels = trained(model, variables, (False,) * 3, images).argmax(-1)
    labels[:2] = (labels[:2] + 1) % 10
    assert error_rate(*full_of(bundle), images, labels, batch_size=4) == 2 / 7
    # [7, 1] would be compared with each of the 7 answers.
    with pytest.raises(ValueError, match=r"labels have the shape \(7, 1\); wanted \(7,\)"):
        error_rate(*full_of(bundle), images, labels[:, None])
    with pytest.raises(ValueError, match="no images are given"):
        error_rate(*full_of(bundle), images[:0], labels[:0])


class Text(tasks.Features):
    """A task whose examples are two arrays of integers, with an answer a token."""

    kind = "text"

    @property
    def inputs(self):
        return {"tokens": tasks.Spec(self.shape, "int32"), "shift": tasks.Spec((), "int32")}

    def check(self, inputs):
        assert inputs["tokens"].dtype == np.int32

    def prepare(self, inputs):
        return inputs["tokens"] + inputs["shift"][:, None]


class Embedding(nn.Module):
    """Scores of five classes a token, read off a table."""

    @nn.compact
    def __call__(self, tokens, *, skip_mask):
        assert tokens.dtype == np.int32
        return nn.Embed(9, 5, name="stem")(tokens)


def test_a_network_of_another_family_takes_a_task_of_another_kind(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.KINDS, "text", Text)
    monkeypatch.setattr(networks.models, "build", lambda description: Embedding())
    table = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    parts = make_parts(blocks=1)
    parts["segments"]["base"] = {"stem/embedding": table}
    parts["model"] = parts["model"] | {"input": {"kind": "text", "shape": [4]}}
    manifest = read_manifest(write_bundle(tmp_path, **parts))
    tokens = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.int32)
    inputs = {"tokens": tokens, "shift": np.array([1, 0], np.int32)}
    expected = table[[[1, 2, 3, 4], [4, 5, 6, 7]]]
    variables = {"params": {"stem": {"embedding": table}}}
    loaded = [Loaded(variables, None)]
    network = make(manifest)
    outputs = network.compile(manifest.ladder[0], loaded, 2)(network.task.prepare(inputs))
    np.testing.assert_array_equal(outputs, expected)
    # Two of eight answers are wrong, both of the second example.
    answers = expected.argmax(-1)
    answers[1, :2] = (answers[1, :2] + 1) % 5
    for batch_size in (1, 2, 9):
        assert error_rate(manifest, variables, inputs, answers, batch_size=batch_size) == 2 / 8
    with pytest.raises(ValueError, match=r"labels have the shape \(2,\); wanted \(2, 4\)"):
        error_rate(manifest, variables, inputs, answers[:, 0])


def test_the_error_rate_of_what_is_no_network_is_refused(tmp_path):
    manifest = read_manifest(write_forest(tmp_path)[0])
    with pytest.raises(ModelError, match="describes no network, but 'forest'"):
        error_rate(manifest, {}, np.zeros((1, 64), np.float32), np.zeros(1, int))


def described(bundle, **changes):
    """A bundle's manifest with another description."""
    manifest = read_manifest(bundle)
    return dataclasses.replace(manifest, model=manifest.model | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "transformer"}, "'transformer' is not known"),
        ({"arguments": {"wings": 2}}, "'wings'"),
        ({"arguments": {}}, "num_classes"),
        ({"arguments": {"num_classes": 10, "channels": [1, 2]}}, "channels=(1, 2) must have one"),
        ({"input": {}}, "kind None is not known"),
        ({"input": INPUT | {"kind": "smells"}}, "kind 'smells' is not known here"),
        ({"input": INPUT | {"shape": "wide"}}, "wanted"),
        ({"input": INPUT | {"std": ["a", "b", "c"]}}, "no model can be made"),
        ({"input": INPUT | {"mean": [0.5]}}, "1 means and 3 standard deviations"),
    ],
)
def test_a_description_of_no_network_is_refused_in_words(resnet, changes, message):
    with pytest.raises(ModelError, match="no model can be made of the manifest's descr") as error:
        make(described(resnet[0], **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": [8, 32, 64]},
        {"stage_sizes": [2, 1, 1]},
        {"num_classes": 3},
    ],
)
def test_segments_of_another_network_are_refused_in_words(resnet, arguments):
    manifest = read_manifest(resnet[0])
    arguments = manifest.model["arguments"] | arguments
    network = make(described(resnet[0], arguments=arguments))
    segments = [
        network.load(segment.name, segment_path(resnet[0], segment.sha256).read_bytes())
        for segment in manifest.segments
    ]
    with pytest.raises(ModelError, match="do not make the network that the manifest describes"):
        network.compile(manifest.ladder[-1], segments, 1)


def test_segments_that_hold_no_variables_are_refused_in_words(resnet):
    manifest = read_manifest(resnet[0])
    with pytest.raises(BundleError, match="segment 'base' cannot be read as safetensors"):
        load_segment(manifest, "base", b"junk" * 10)
    one = np.zeros(1, np.float32)
    for names in (["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]):
        content = safetensors.numpy.save(dict.fromkeys(names, one))
        with pytest.raises(BundleError, match="is named like a tree of tensors, or lies below"):
            load_segment(manifest, "base", content)
