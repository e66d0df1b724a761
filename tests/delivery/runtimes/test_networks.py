import threading
import tracemalloc

import jax
import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.variables import load_variables, normalise, quantise_int8
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.runtimes import networks as runtime_module
from accordion_jax.delivery.runtimes.networks import Runtime, top1_error
from tests.delivery.resnets import INPUT, make_images, write_resnet
from tests.delivery.servers import Fault, Served
from tests.delivery.toys import make_parts

WAIT_S = 60


@pytest.fixture(scope="module", params=["coml", "blockcoml"])
def resnet(request, tmp_path_factory):
    """(bundle, model, variables) of a ResNet of three blocks."""
    return write_resnet(tmp_path_factory.mktemp("resnet"), request.param)


@pytest.fixture
def running():
    """Makes runtimes, and closes them."""
    made = []

    def make(device, **kwargs):
        made.append(Runtime(device, **kwargs))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()


def trained(model, variables, skip_mask, images):
    """Logits of the trained model under a skip mask."""
    mean, std = (np.array(INPUT[name], np.float32) for name in ("mean", "std"))
    inputs = (images.astype(np.float32) / np.float32(255) - mean) / std
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
        np.testing.assert_array_equal(prediction.logits, expected)
        seen.append(expected)
    assert not np.array_equal(seen[0], seen[-1])
    assert runtime.problems == []


def test_no_prediction_waits_for_a_compilation(resnet, make_virtual, running, monkeypatch):
    bundle, _, _ = resnet
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    compiling, go_on = threading.Event(), threading.Event()
    compile_ = Runtime._compile

    def slow(self, configuration, variables, batch_size):
        if configuration.name != manifest.ladder[0].name:
            compiling.set()
            assert go_on.wait(WAIT_S)
        return compile_(self, configuration, variables, batch_size)

    monkeypatch.setattr(runtime_module.Runtime, "_compile", slow)
    runtime = running(device, batch_sizes=(2,))
    device.fetch(max_bytes=manifest.segments[0].size_bytes)
    assert runtime.wait(WAIT_S)
    device.upgrade()
    assert compiling.wait(WAIT_S)
    # The full model is held and on its way to be compiled: the base answers meanwhile.
    assert runtime.predict(make_images(2)).configuration == manifest.ladder[0].name
    go_on.set()
    assert runtime.wait(WAIT_S, configuration=manifest.ladder[-1].name)
    assert runtime.predict(make_images(2)).configuration == manifest.ladder[-1].name


def test_a_step_down_to_a_compiled_configuration_is_immediate(resnet, make_virtual, running):
    bundle, _, _ = resnet
    device, throttled = make_virtual(bundle, 10.0)
    manifest = device.connect()
    swaps = []
    runtime = running(device, on_swap=lambda _, configuration: swaps.append(configuration.name))
    device.upgrade()
    assert runtime.wait(WAIT_S, configuration=manifest.ladder[-1].name)
    moved = throttled.body_bytes
    smallest = manifest.ladder[0].name
    device.step_down(depth=0)
    assert runtime.configuration.name == smallest
    device.step_up()
    assert runtime.configuration.name == manifest.ladder[-1].name
    assert swaps[-2:] == [smallest, manifest.ladder[-1].name]
    # One between, never compiled: soon, without the network.
    device.step_down(depth=1 if len(manifest.ladder) > 2 else 0)
    assert runtime.wait(WAIT_S, configuration=device.in_use.name)
    assert throttled.body_bytes == moved


def test_a_damaged_file_is_found_when_it_is_loaded_and_fetched_again(resnet, make_virtual, running):
    bundle, _, _ = resnet
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    runtime = running(device)
    device.fetch(max_bytes=manifest.segments[0].size_bytes)
    assert runtime.wait(WAIT_S)
    damaged = manifest.segments[-1]

    def damage(event):
        if event.kind == "segment" and damaged.sha256 in device.holding.held:
            path = device.cache.path(damaged.sha256)
            path.write_bytes(path.read_bytes()[:-1] + b"!")

    # Before the runtime's own listener, so that the worker can only see the damaged file.
    device._listeners.insert(0, damage)
    problem = threading.Event()
    device.add_listener(lambda event: problem.set() if event.kind == "problem" else None)
    device.upgrade()
    assert problem.wait(WAIT_S)
    assert runtime.predict(make_images(1)).configuration != manifest.ladder[-1].name
    assert damaged.sha256 not in device.holding.held
    device._listeners.remove(damage)
    outcome = device.upgrade()
    assert outcome.transferred_bytes == damaged.size_bytes
    assert runtime.wait(WAIT_S, configuration=manifest.ladder[-1].name)


def test_it_keeps_predicting_when_the_link_is_lost(resnet, make_virtual, running):
    bundle, _, _ = resnet
    served = Served(bundle)
    device, _ = make_virtual(served, 10.0)
    manifest = device.connect()
    runtime = running(device)
    device.fetch(max_bytes=manifest.segments[0].size_bytes)
    assert runtime.wait(WAIT_S)
    served.faults = [Fault(status=503)] * 5
    before = runtime.predict(make_images(1))
    outcome = device.upgrade()
    assert "gave up after" in outcome.problems[0]
    after = runtime.predict(make_images(1))
    assert after.configuration == before.configuration == manifest.ladder[0].name
    np.testing.assert_array_equal(after.logits, before.logits)


def test_predicting_before_anything_is_there_says_so(resnet, make_virtual, running):
    device, _ = make_virtual(resnet[0], 10.0)
    device.connect()
    runtime = running(device)
    assert not runtime.wait(0.01)
    with pytest.raises(DeliveryError, match="no configuration is complete and compiled yet"):
        runtime.predict(make_images(1))


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
    np.testing.assert_array_equal(runtime.predict(images).logits, expected)


def test_images_are_normalised_as_in_training():
    images = make_images(5)
    trained_on = data.normalise(images, INPUT["mean"], INPUT["std"])
    np.testing.assert_allclose(
        normalise(images, {"input": INPUT}), trained_on, rtol=1e-5, atol=1e-6
    )


def test_images_of_another_type_or_shape_are_refused():
    with pytest.raises(ValueError, match=r"float32 of shape \(1, 8, 8, 3\); wanted uint8"):
        normalise(np.zeros((1, 8, 8, 3), np.float32), {"input": INPUT})
    with pytest.raises(ValueError, match=r"wanted uint8 of shape \(batch, 8, 8, 3\)"):
        normalise(np.zeros((1, 9, 8, 3), np.uint8), {"input": INPUT})


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


def test_eight_bits_are_within_half_a_step_of_the_kernel_and_leave_the_rest(resnet):
    _, _, variables = resnet
    kept = jax.tree.map(np.copy, variables)
    quantised, size = quantise_int8(variables)
    jax.tree.map(np.testing.assert_array_equal, variables, kept)
    raw = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert 0.25 * raw < size < 0.28 * raw
    kernel = variables["params"]["stage1_block01"]["conv1"]["kernel"]
    after = quantised["params"]["stage1_block01"]["conv1"]["kernel"]
    step = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    assert np.all(np.abs(after - kernel) <= step / 2 * 1.0001)
    assert not np.array_equal(after, kernel)
    assert len(np.unique(after[..., 0])) <= 255
    statistics = ("batch_stats", "stage1_block01", "norm1", "mean")
    a, b = variables, quantised
    for part in statistics:
        a, b = a[part], b[part]
    np.testing.assert_array_equal(a, b)


def test_top1_error_counts_what_the_model_gets_wrong(resnet, cache):
    bundle, model, variables = resnet
    manifest = Served(bundle).model
    images = make_images(7)
    right = trained(model, variables, (False,) * 3, images).argmax(-1)
    labels = right.copy()
    labels[:2] = (labels[:2] + 1) % 10
    read = lambda sha256: (bundle / "segments" / f"{sha256}.safetensors").read_bytes()  # noqa: E731
    loaded = load_variables(manifest, read)
    assert top1_error(manifest, loaded, images, labels, batch_size=4) == 2 / 7
