"""A device runs each configuration with its own statistics, from an endpoint to predictions."""

import jax
import numpy as np
import pytest

from accordion_jax import tasks
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.variables import load_variables
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.device.progress import summary
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.runtimes import make
from tests.delivery.live import serving
from tests.delivery.resnets import INPUT, make_images, make_own_parts, with_own

WAIT_S = 240


@pytest.fixture(scope="module", params=[(32,), (4, 8)], ids=["float32", "4,8"])
def served(request, tmp_path_factory):
    """(URL of an endpoint, bundle, model, variables, own)."""
    parts, model, variables, own = make_own_parts(bits=request.param)
    bundle = write_bundle(tmp_path_factory.mktemp("bundles"), **parts)
    with serving(make_app(BundleStore(str(bundle.parent)))) as url:
        yield url, bundle, model, variables, own


def logits(model, variables, mask, images):
    inputs = tasks.from_description(INPUT).prepare(images)
    return np.asarray(jax.jit(lambda v: model.apply(v, inputs, skip_mask=mask))(variables))


def test_it_is_fetched_run_and_outgrown(served, make_device, running):
    url, bundle, model, variables, own = served
    manifest, images = read_manifest(bundle), make_images(4)
    name = next(n for n in ("blockcoml-1", "blockcoml-1.8") if n in manifest.rows)
    least, full = manifest.rows[name].size_bytes, manifest.ladder[-1]
    device = make_device(url)
    device.connect()
    device.fetch(max_macs=manifest.rows[name].macs)
    assert device.in_use.name == name
    assert device.outcome().transferred_bytes == device.holding.size_bytes == least
    assert f"in use       {name}: 2 of 4 blocks" in summary(device)
    missing = manifest.size_bytes - least + manifest.by_name["statistics-blockcoml-1"].size_bytes
    assert f"{missing:,} bytes of the full model are missing" in summary(device)

    runtime = running(device, batch_sizes=(4,))
    assert runtime.wait(WAIT_S, configuration=name), runtime.problems
    found = runtime.predict(images)
    mask = device.in_use.skip_mask
    wanted = logits(model, with_own(variables, own["blockcoml-1"]), mask, images)
    shared = logits(model, variables, mask, images)
    if name == "blockcoml-1":
        np.testing.assert_array_equal(found.outputs, wanted)
    else:  # what 8 bits change is little beside what the statistics do
        assert np.abs(found.outputs - wanted).max() < 0.1 * np.abs(shared - wanted).max()
    assert found.expected_error == manifest.rows[name].top1_error

    # Then what is missing alone; and from there the configuration is there to step down to.
    outcome = device.upgrade()
    assert outcome.transferred_bytes == missing
    assert device.holding.missing_bytes == 0
    assert runtime.wait(WAIT_S, configuration=full.name), runtime.problems
    device.step_down(depth=2)
    assert device.in_use.name == name
    np.testing.assert_array_equal(runtime.predict(images).outputs, found.outputs)
    assert runtime.problems == []


def test_on_the_way_to_the_full_model_others_run_with_the_shared_ones(served, make_virtual):
    _, bundle, *_ = served
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    seen = []
    device.add_listener(lambda _: seen.append(device.in_use.name if device.in_use else None))
    outcome = device.upgrade()
    assert outcome.transferred_bytes <= manifest.size_bytes
    assert device.holding.missing_bytes == 0
    assert device.holding.size_bytes == manifest.size_bytes
    assert device.in_use == manifest.ladder[-1]
    assert [name for name in seen if name and "blockcoml-1" in name and name.endswith(".shared")]
    assert "0 bytes of the full model are missing" in summary(device)


def test_damaged_statistics_stop_nothing_else(served, make_device, running):
    url, bundle, *_ = served
    manifest = read_manifest(bundle)
    name = next(n for n in ("blockcoml-1", "blockcoml-1.8") if n in manifest.rows)
    device = make_device(url, folder="damaged")
    device.connect()
    device.fetch(max_macs=manifest.rows[name].macs)
    own = manifest.by_name["statistics-blockcoml-1"]
    path = device.cache.path(own.sha256)
    path.chmod(0o644)
    path.write_bytes(b"x" * own.size_bytes)
    runtime = running(device, batch_sizes=(1,))
    assert runtime.wait(WAIT_S), runtime.problems
    assert runtime.wait(WAIT_S, configuration=f"{name}.shared"), runtime.problems
    assert any("damaged" in problem for problem in device.outcome().problems)
    assert own.sha256 not in device.holding.held
    device.fetch(max_macs=manifest.rows[name].macs)  # gets it again
    assert runtime.wait(WAIT_S, configuration=name), runtime.problems


def test_loaded_by_name_it_is_what_a_runtime_compiles(served):
    _, bundle, *_ = served
    manifest, images = read_manifest(bundle), make_images(2)

    def read(sha256):
        return segment_path(bundle, sha256).read_bytes()

    network = make(manifest)
    name = next(n for n in ("blockcoml-1", "blockcoml-1.4") if n in manifest.rows)
    configuration = manifest.configurations[name]
    segments = [
        network.load(each, read(manifest.by_name[each].sha256)) for each in configuration.segments
    ]
    run = network.compile(configuration, segments, 2)
    variables = load_variables(manifest, read, configuration)
    found = run(network.task.prepare(images))
    mask = configuration.skip_mask
    model = make_own_parts()[1]
    np.testing.assert_array_equal(found, logits(model, variables, mask, images))
