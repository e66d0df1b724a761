"""What every runtime has in common, shown with a network and with a forest."""

import itertools
import threading

import numpy as np
import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.runtimes.runtime import Runtime
from tests.delivery.forests import write_forest
from tests.delivery.resnets import make_images, write_resnet
from tests.delivery.servers import Fault, Served
from tests.docs.examples import load

WAIT_S = 60


@pytest.fixture(scope="module", params=["coml", "blockcoml", "forest", "boosting"])
def model(request, tmp_path_factory):
    """(bundle, function from a count to inputs) of a model of several segments."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in ("coml", "blockcoml"):
        return write_resnet(folder, request.param)[0], make_images
    bundle, _, rows, _ = write_forest(folder, request.param, trees=4, group=1, classes=3)
    return bundle, lambda count: rows[:count]


def test_the_deepest_complete_configuration_is_used(model, make_virtual, running):
    bundle, make_inputs = model
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    runtime = running(device, batch_sizes=(4,))
    seen = []
    for wanted in manifest.ladder:
        device.upgrade(wanted.name)
        assert runtime.wait(WAIT_S, configuration=wanted.name), runtime.problems
        prediction = runtime.predict(make_inputs(4))
        assert prediction.configuration == wanted.name
        assert prediction.expected_error == manifest.rows[wanted.name].top1_error
        seen.append(prediction.outputs)
    assert not np.array_equal(seen[0], seen[-1])
    assert runtime.problems == []


def test_no_prediction_waits_for_a_compilation(model, make_virtual, running, monkeypatch):
    bundle, make_inputs = model
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    compiling, go_on = threading.Event(), threading.Event()
    compile_ = Runtime._compile

    def slow(self, configuration, batch_size):
        if configuration.name != manifest.ladder[0].name:
            compiling.set()
            assert go_on.wait(WAIT_S)
        return compile_(self, configuration, batch_size)

    monkeypatch.setattr(Runtime, "_compile", slow)
    runtime = running(device, batch_sizes=(2,))
    device.fetch(max_bytes=manifest.segments[0].size_bytes)
    assert runtime.wait(WAIT_S)
    device.upgrade()
    assert compiling.wait(WAIT_S)
    # The full model is held and on its way to be compiled: the base answers meanwhile.
    assert runtime.predict(make_inputs(2)).configuration == manifest.ladder[0].name
    go_on.set()
    assert runtime.wait(WAIT_S, configuration=manifest.ladder[-1].name)
    assert runtime.predict(make_inputs(2)).configuration == manifest.ladder[-1].name


def test_a_step_down_to_a_compiled_configuration_is_immediate(model, make_virtual, running):
    device, throttled = make_virtual(model[0], 10.0)
    manifest = device.connect()
    swaps = []
    runtime = running(device, on_swap=lambda _, configuration: swaps.append(configuration.name))
    device.fetch(max_bytes=manifest.segments[0].size_bytes)
    assert runtime.wait(WAIT_S)
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
    assert all(before != after for before, after in itertools.pairwise(swaps))


def test_a_damaged_file_is_found_when_it_is_loaded_and_fetched_again(
    model, make_virtual, running, monkeypatch
):
    bundle, make_inputs = model
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    damaged, full = manifest.segments[-1], manifest.ladder[-1].name
    read, times = device.cache.read, []

    def damage_once(sha256):
        if sha256 == damaged.sha256 and not times:
            times.append(sha256)
            path = device.cache.path(sha256)
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        return read(sha256)

    monkeypatch.setattr(device.cache, "read", damage_once)
    runtime = running(device)
    problem = threading.Event()
    device.add_listener(lambda event: problem.set() if event.kind == "problem" else None)
    first = device.upgrade()
    assert problem.wait(WAIT_S)
    # Missing again, if it was not missed while the first upgrade was still at work.
    second = device.upgrade()
    moved = first.transferred_bytes + second.transferred_bytes
    assert moved == manifest.size_bytes + damaged.size_bytes
    assert runtime.wait(WAIT_S, configuration=full)
    assert runtime.predict(make_inputs(1)).configuration == full
    assert "the file was damaged and is now deleted" in runtime.problems[0]


def test_it_keeps_predicting_when_the_link_is_lost(model, make_virtual, running):
    bundle, make_inputs = model
    served = Served(bundle)
    device, _ = make_virtual(served, 10.0)
    manifest = device.connect()
    runtime = running(device)
    device.fetch(max_bytes=manifest.segments[0].size_bytes)
    assert runtime.wait(WAIT_S)
    served.faults = [Fault(status=503)] * 50
    before = runtime.predict(make_inputs(1))
    outcome = device.upgrade()
    assert "gave up after" in outcome.problems[0]
    after = runtime.predict(make_inputs(1))
    assert after.configuration == before.configuration == manifest.ladder[0].name
    np.testing.assert_array_equal(after.outputs, before.outputs)


def test_predicting_before_anything_is_there_says_so(model, make_virtual, running):
    bundle, make_inputs = model
    device, _ = make_virtual(bundle, 10.0)
    device.connect()
    runtime = running(device)
    assert not runtime.wait(0.01)
    with pytest.raises(DeliveryError, match="no configuration is complete and compiled yet; call"):
        runtime.predict(make_inputs(1))


def test_any_batch_is_answered_and_answers_do_not_depend_on_it(model, make_virtual, running):
    bundle, make_inputs = model
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    device.upgrade()
    runtime = running(device)
    assert runtime.wait(WAIT_S, configuration=manifest.ladder[-1].name)
    together = runtime.predict(make_inputs(3)).outputs
    for index in range(3):
        alone = runtime.predict(make_inputs(3)[index : index + 1]).outputs
        np.testing.assert_allclose(alone[0], together[index], rtol=1e-4, atol=1e-4)


def test_inputs_of_another_type_or_shape_are_refused(model, make_virtual, running):
    bundle, make_inputs = model
    device, _ = make_virtual(bundle, 10.0)
    device.connect()
    device.upgrade()
    runtime = running(device)
    assert runtime.wait(WAIT_S)
    right = make_inputs(2)
    with pytest.raises(ValueError, match=r"float64 of shape .*; wanted"):
        runtime.predict(right.astype(np.float64))
    with pytest.raises(ValueError, match=r"wanted .* of shape"):
        runtime.predict(right[:, :-1])


def write_odd(folder, odd):
    """A bundle of a forest; `odd` changes its arrays by segment before it is written."""
    _, classifier, rows, labels = write_forest(folder / "sound", trees=4, group=1, classes=3)
    parts = load("forest").cut(classifier, 1, rows, labels, dataset="digits", seed=0)
    odd(parts["segments"])
    return write_bundle(folder, **parts), rows


def test_a_segment_that_is_wrong_though_its_digest_is_right_leaves_the_others_in_use(
    tmp_path, make_virtual, running
):
    def odd(segments):
        segments["trees002"]["left"][0] = 0  # its own child: a way that never ends

    bundle, rows = write_odd(tmp_path, odd)
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    runtime = running(device)
    device.upgrade()
    assert runtime.wait(WAIT_S, configuration=manifest.ladder[1].name)
    assert runtime.predict(rows[:1]).configuration == "groups-2"
    while len(runtime._failed) < len(manifest.ladder) - 2:  # those that need the odd one
        threading.Event().wait(0.01)
    for problem in runtime.problems:
        assert "cannot be run: segment 'trees002' holds no trees: a child lies before" in problem


def test_where_nothing_can_be_run_predicting_says_why(tmp_path, make_virtual, running):
    def odd(segments):
        segments["base"]["values"][0, 0] = np.nan

    bundle, rows = write_odd(tmp_path, odd)
    device, _ = make_virtual(bundle, 10.0)
    device.connect()
    failed = threading.Event()
    runtime = running(device)
    device.upgrade()
    while len(runtime._failed) < len(device.manifest.ladder):
        failed.wait(0.01)
    assert not runtime.wait(0)
    with pytest.raises(DeliveryError, match="yet; groups-4 cannot be run: segment 'base' holds"):
        runtime.predict(rows[:1])
