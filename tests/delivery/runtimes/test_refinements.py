"""A network whose bits come one after another: what runs, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from accordion_jax.delivery.bundle.manifest import Manifest, digest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path, verify_bundle
from accordion_jax.delivery.bundle.variables import load_segment, load_variables
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import BundleError
from accordion_jax.delivery.runtimes import make
from tests.delivery.checks import wait_until
from tests.delivery.resnets import make_chained_parts, make_images, write_chained
from tests.delivery.servers import Fault, Served

WAIT_S = 60


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    """(bundle, model, chains) in 3 bits, from there to 5, and from there to 8."""
    return write_chained(tmp_path_factory.mktemp("chained"), bits=(3, 5, 8))


def outputs_of(chained, configuration, images):
    """What the network says that has just these bits, by the definition."""
    bundle, model, chains = chained
    manifest = read_manifest(bundle)
    steps = {}
    for name in configuration.segments:
        segment = manifest.by_name[name]
        steps[segment.unit] = chains.bits.index(segment.bits)
    prepared = make(manifest).task.prepare(images)
    return np.asarray(
        model.apply(chains.variables(steps), prepared, skip_mask=configuration.skip_mask)
    )


def test_every_configuration_runs_in_its_own_bits(chained):
    bundle = chained[0]
    manifest, images = verify_bundle(bundle), make_images(3)
    # Four segments of three steps, of which three depths of the last number of bits are off the
    # path, and the fourth is its end.
    assert len(manifest.ladder) == 12 + 3
    network = make(manifest)
    for configuration in manifest.ladder:
        loaded = {}
        for name in configuration.segments:
            segment = manifest.by_name[name]
            content = segment_path(bundle, segment.sha256).read_bytes()
            loaded[name] = network.load(name, content, loaded.get(segment.refines))
        segments = [loaded[name] for name in manifest.finest(configuration)]
        run = network.compile(configuration, segments, 3)
        np.testing.assert_allclose(
            run(network.task.prepare(images)),
            outputs_of(chained, configuration, images),
            rtol=1e-4,
            atol=1e-4,
        )
    # The same blocks in more bits are the same program.
    assert len(network._programs) == 4
    variables = load_variables(manifest, lambda sha: segment_path(bundle, sha).read_bytes())
    jax.tree.map(
        np.testing.assert_array_equal,
        variables,
        chained[2].variables(dict.fromkeys(chained[2].names, 2)),
    )


def test_the_bits_that_are_there_run_while_the_others_come(chained, make_virtual, running):
    bundle, images = chained[0], make_images(2)
    device, _ = make_virtual(bundle, 10.0)
    manifest = device.connect()
    runtime = running(device, batch_sizes=(2,))
    for name in ("coml-0.3", "coml-3.3", "coml-3.3-5.2", "coml-3.5", "coml-3.8"):
        device.upgrade(name)
        assert runtime.wait(WAIT_S, configuration=name), runtime.problems
        np.testing.assert_allclose(
            runtime.predict(images).outputs,
            outputs_of(chained, manifest.configurations[name], images),
            rtol=1e-4,
            atol=1e-4,
        )
    assert runtime.problems == []
    # What a refinement has taken the place of stays only where a step down may lead to it.
    compiled = {manifest.configurations[name] for name, _ in runtime._compiled}
    assert {manifest.rows[each.name].depth for each in compiled if each.name.endswith(".8")} == {3}
    assert "coml-3.3" not in {each.name for each in compiled}
    assert set(runtime._segments) == {n for each in compiled for n in manifest.finest(each)}
    device.step_down(depth=1)
    assert runtime.wait(WAIT_S, configuration="coml-1.8")
    device.step_up()
    assert runtime.configuration.name == "coml-3.8"


def test_a_device_bound_by_operations_gets_bits(chained, make_virtual, running):
    device, _ = make_virtual(chained[0], 10.0)
    manifest = device.connect()
    runtime = running(device)
    macs = manifest.rows["coml-1.3"].macs
    outcome = device.fetch(max_macs=macs)
    assert outcome.configuration == "coml-1.8"
    assert outcome.transferred_bytes == manifest.rows["coml-1.8"].size_bytes
    assert runtime.wait(WAIT_S, configuration="coml-1.8")
    # Of the rest, nothing comes twice.
    assert device.upgrade().transferred_bytes == (
        manifest.size_bytes - manifest.rows["coml-1.8"].size_bytes
    )
    assert runtime.wait(WAIT_S, configuration="coml-3.8")


def test_a_device_bound_by_memory_holds_no_more(chained, make_virtual):
    device, _ = make_virtual(chained[0], 10.0)
    manifest = device.connect()
    most = manifest.memory_bytes(manifest.configurations["coml-2.3"])
    assert device.fetch(max_memory_bytes=most).configuration == "coml-2.8"
    assert device.upgrade().configuration == "coml-3.8"  # takes the bound back
    assert device.fetch(max_memory_bytes=most - 1).configuration == "coml-1.8"
    assert device.fetch(max_memory_bytes=0).configuration is None


def test_where_the_link_is_lost_before_a_refinement_its_base_runs(chained, make_virtual, running):
    served, images = Served(chained[0]), make_images(2)
    device, _ = make_virtual(served, 10.0)
    manifest = device.connect()
    runtime = running(device)
    device.upgrade("coml-3.3")
    served.faults = [Fault(cut_at=200), *[Fault(status=503)] * 50]
    outcome = device.upgrade()
    assert "gave up after" in outcome.problems[0]
    assert outcome.configuration == "coml-3.3"
    assert runtime.wait(WAIT_S, configuration="coml-3.3")
    np.testing.assert_allclose(
        runtime.predict(images).outputs,
        outputs_of(chained, manifest.configurations["coml-3.3"], images),
        rtol=1e-4,
        atol=1e-4,
    )
    served.faults = []
    assert device.upgrade().configuration == "coml-3.8"


def test_a_refinement_that_is_damaged_on_the_way_is_not_used(chained, make_virtual):
    served = Served(chained[0])
    device, _ = make_virtual(served, 10.0)
    device.connect()
    device.upgrade("coml-3.3")
    served.faults = [Fault(replace=lambda content: bytes(len(content)))] * 50
    outcome = device.upgrade()
    assert "arrived with SHA-256" in outcome.problems[0]
    assert outcome.configuration == "coml-3.3"


def with_contents(folder, change):
    """A bundle whose refinements `change` (name -> bytes) has replaced, all digests right."""
    parts, model, chains = make_chained_parts()
    pieces = parts["segments"]
    changed = change({name: piece.content for name, piece in pieces.items()})
    parts["segments"] = {
        name: dataclasses.replace(piece, content=changed[name]) for name, piece in pieces.items()
    }
    # Sizes are others too.
    sizes = {name: len(content) for name, content in changed.items()}
    size_of = {c["name"]: sum(sizes[name] for name in c["segments"]) for c in parts["ladder"]}
    parts["ladder"].sort(key=lambda configuration: size_of[configuration["name"]])
    return write_bundle(folder, **parts), model, chains


def swapped(contents):
    one, other = "stage1_block01.8", "stage2_block01.8"
    return contents | {one: contents[other], other: contents[one]}


def of_another(contents):
    return contents | {
        "stage1_block01.8": make_chained_parts(seed=5)[0]["segments"]["stage1_block01.8"].content
    }


def cut(contents):
    return contents | {"stage1_block01.8": contents["stage1_block01.8"][:-1]}


def lengthened(contents):
    return contents | {"stage1_block01.8": contents["stage1_block01.8"] + b"\0"}


def flipped(contents):
    content = bytearray(contents["stage1_block01.8"])
    content[0] ^= 0x80  # no kind of segment
    return contents | {"stage1_block01.8": bytes(content)}


@pytest.mark.parametrize("change", [swapped, of_another, cut, lengthened, flipped])
def test_a_wrong_refinement_leaves_in_use_what_it_would_refine(
    tmp_path, make_virtual, running, change
):
    bundle, *_ = with_contents(tmp_path, change)
    with pytest.raises(BundleError, match=r"'stage1_block01.8' at .* cannot be unpacked: "):
        verify_bundle(bundle)
    device, _ = make_virtual(bundle, 10.0)
    device.connect()
    runtime = running(device)
    device.upgrade("coml-3.4")
    assert runtime.wait(WAIT_S, configuration="coml-3.4")
    device.upgrade()
    # The base's refinement is sound, and comes first.
    assert runtime.wait(WAIT_S, configuration="coml-3.4-8.1"), runtime.problems
    said = "segment 'stage1_block01.8' cannot be read"
    wait_until(lambda: any(said in each for each in runtime.problems))
    assert runtime.predict(make_images(1)).configuration == "coml-3.4-8.1"


def test_a_refinement_alone_says_what_it_lacks(chained):
    manifest = read_manifest(chained[0])
    segment = manifest.by_name["base.5"]
    content = segment_path(chained[0], segment.sha256).read_bytes()
    with pytest.raises(BundleError, match="it refines 'base', which is not here"):
        load_segment(manifest, "base.5", content)


def test_a_bundle_is_of_the_bits_that_it_says(chained):
    manifest = read_manifest(chained[0])
    assert manifest.provenance["bits"] == [3, 5, 8]
    assert [manifest.rows[f"coml-{i}.8"].bits for i in range(4)] == [8.0] * 4
    bits = manifest.rows["coml-3.3-5.1"].bits
    assert 3 < bits < 5
    assert manifest.bits(manifest.configurations["coml-3.3-5.1"]) == (3, 5)
    assert {segment.layout is None for segment in manifest.segments} == {False}
    assert Manifest.from_bytes(manifest.to_bytes()).segments == manifest.segments
    assert len({digest(piece) for chain in chained[2].contents.values() for piece in chain}) == 12
