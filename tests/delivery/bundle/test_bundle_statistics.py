"""Statistics of configurations' own in a bundle: what they cost, and what of them is refused."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from accordion_jax import tasks
from accordion_jax.delivery.bundle.cutting import own_piece
from accordion_jax.delivery.bundle.encodings.chain import encode_chain
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.folding import fold_norms, fold_statistics
from accordion_jax.delivery.bundle.manifest import Manifest, canonical_json, digest
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path, summary
from accordion_jax.delivery.bundle.variables import Loaded, load_segment, load_variables, merged
from accordion_jax.delivery.bundle.writing import Piece, write_bundle
from accordion_jax.delivery.errors import BundleError, ManifestError
from accordion_jax.delivery.planner import Requirements, plan
from tests.delivery.resnets import INPUT, make_images, make_own, make_own_parts, make_resnet
from tests.delivery.resnets import with_own as replaced_by

OWN = "statistics-blockcoml-1"


@pytest.fixture(scope="module")
def plain():
    """(parts, model, variables, own) in float32."""
    return make_own_parts()


@pytest.fixture(scope="module")
def bundle(plain, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("own"), **plain[0])


@pytest.fixture(scope="module")
def coded():
    return make_own_parts(bits=(4, 8))


@pytest.fixture(scope="module")
def coded_bundle(coded, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("coded"), **coded[0])


def of(bundle, configuration):
    manifest = read_manifest(bundle)
    return load_variables(
        manifest,
        lambda sha256: segment_path(bundle, sha256).read_bytes(),
        manifest.configurations[configuration],
    )


def test_a_configuration_is_there_with_its_own_statistics_and_without(plain, bundle):
    _, _, variables, own = plain
    manifest = read_manifest(bundle)
    assert [each.name for each in manifest.ladder] == [
        *("blockcoml-0", "blockcoml-1.shared", "blockcoml-1", "blockcoml-2")
    ]
    assert manifest.configurations["blockcoml-1"].statistics == OWN
    shared, mine = of(bundle, "blockcoml-1.shared"), of(bundle, "blockcoml-1")
    jax.tree.map(np.testing.assert_array_equal, shared["params"], mine["params"])
    for unit in ("stem", "stage1_block01", "stage2_block01"):
        wanted = own["blockcoml-1"].get(unit, variables["batch_stats"][unit])
        jax.tree.map(np.testing.assert_array_equal, mine["batch_stats"][unit], wanted)
        before = variables["batch_stats"][unit]
        jax.tree.map(np.testing.assert_array_equal, shared["batch_stats"][unit], before)
    full = of(bundle, "blockcoml-2")
    jax.tree.map(np.testing.assert_array_equal, full, dict(variables))
    rows = manifest.rows
    assert rows["blockcoml-1.shared"].errors == 600
    assert rows["blockcoml-1"].errors == 400
    assert rows["blockcoml-1"].bits == rows["blockcoml-1.shared"].bits == 32


def test_its_bytes_are_those_of_its_own_statistics_and_nobody_elses(bundle):
    manifest = read_manifest(bundle)
    sent = manifest.by_name[OWN].size_bytes
    # Of the stem 8 channels, of the block after the gap two norms of 16; mean and variance.
    assert sent == pytest.approx(4 * 2 * (8 + 16 + 16), abs=16)
    rows = manifest.rows
    assert rows["blockcoml-1"].size_bytes == rows["blockcoml-1.shared"].size_bytes + sent
    everything = sum(segment.size_bytes for segment in manifest.segments)
    assert manifest.size_bytes == rows["blockcoml-2"].size_bytes == everything - sent
    assert f"statistics of 1 configurations, {sent} bytes" in summary(bundle)


def test_a_plan_counts_them_and_sends_them_to_those_that_run_them_alone(bundle):
    manifest = read_manifest(bundle)
    rows, size_of = manifest.rows, {s.name: s.size_bytes for s in manifest.segments}
    least = rows["blockcoml-1"].size_bytes
    made = plan(manifest, Requirements(max_bytes=least))
    assert (made.configuration, made.transfer_bytes) == ("blockcoml-1", least)
    assert [segment.name for segment in made.missing][-1] == OWN
    one_less = plan(manifest, Requirements(max_bytes=least - 1))
    assert one_less.configuration == "blockcoml-1.shared"
    seconds = 8 * least / 1e6
    for deadline_s, name in ((seconds, "blockcoml-1"), (0.9999 * seconds, "blockcoml-1.shared")):
        within = Requirements(deadline_s=deadline_s, throughput_bps=1e6)
        assert plan(manifest, within).configuration == name
    # From one to the next: what is missing alone; and straight to the full model without them.
    held = {segment.sha256 for segment in made.missing}
    after = plan(manifest, Requirements(), held)
    assert [segment.name for segment in after.missing] == ["stage1_block02", "stage2_block02"]
    assert OWN not in [segment.name for segment in plan(manifest, Requirements()).missing]
    # And only they are missing to whoever has the blocks.
    shared = {
        manifest.by_name[n].sha256 for n in manifest.configurations["blockcoml-1.shared"].segments
    }
    assert [c.name for c in manifest.complete(shared)] == ["blockcoml-1.shared", "blockcoml-0"]
    more = plan(manifest, Requirements(max_bytes=size_of[OWN]), shared)
    assert [segment.name for segment in more.missing] == [OWN]
    assert manifest.complete(held)[0].name == "blockcoml-1"


def test_the_default_path_is_as_without_them(bundle):
    manifest = read_manifest(bundle)
    assert [c.name for c in manifest.path] == ["blockcoml-0", "blockcoml-1.shared", "blockcoml-2"]
    assert [c.name for c in manifest.path_at_best] == ["blockcoml-0", "blockcoml-1", "blockcoml-2"]
    without = dict(manifest.document()["depths"])
    assert without.pop("statistics") == [None, None, 5, None]
    assert without.keys() == {"skip_mask", "parameters", "macs"}


def test_in_few_bits_each_rung_is_there_with_and_without(coded, coded_bundle):
    manifest = read_manifest(coded_bundle)
    names = set(manifest.configurations)
    assert {
        "blockcoml-1.4",
        "blockcoml-1.4.shared",
        "blockcoml-1.8",
        "blockcoml-1.8.shared",
    } <= names
    segment = manifest.by_name[OWN]
    assert (segment.bits, segment.is_statistics) == (16, True)
    assert segment.size_bytes == pytest.approx(2 * 2 * (8 + 16 + 16), abs=16)
    for configuration in manifest.ladder:
        least, most = manifest.bits(configuration)
        assert {least, most} <= {4, 8}  # statistics are no weights
        assert 4 <= manifest.rows[configuration.name].bits <= 8
        assert (OWN in configuration.segments) == (configuration.statistics == OWN)
    _, _, variables, own = coded
    folded = fold_statistics(variables, own["blockcoml-1"])
    found = of(coded_bundle, "blockcoml-1.8")["batch_stats"]
    for unit, tree in folded.items():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), found[unit], tree)


@pytest.mark.parametrize("scheme", ["blockcoml"])
def test_a_folded_network_with_folded_statistics_gives_the_same_outputs(scheme):
    """Also where norms scale by what is negative, or by nothing."""
    model, variables, ladder, _ = make_resnet(scheme, (2, 2), (8, 16))
    scale = variables["params"]["stage2_block01"]["norm1"]["scale"]
    scale[::2] *= -1
    scale[3] = 0
    own = make_own(model, variables, ladder)["blockcoml-1"]
    mask = ladder[1].skip_mask
    inputs = tasks.from_description(INPUT).prepare(make_images(8))
    apply = jax.jit(lambda v: model.apply(v, inputs, skip_mask=mask))
    wanted = np.asarray(apply(replaced_by(variables, own)))
    folded = fold_norms(variables)
    found = np.asarray(apply(replaced_by(folded, fold_statistics(variables, own))))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    shared = np.asarray(apply(variables))
    assert np.abs(shared - wanted).max() > 0.1 * np.abs(wanted).max()


def test_folding_statistics_is_exact_algebra_with_the_bias_of_a_convolution_too():
    rng = np.random.default_rng(0)
    kernel, bias, scale, shift, mean, own_mean = rng.normal(size=(6, 5))
    var, own_var = rng.uniform(0.01, 4, (2, 5))
    own_var[0], var[0] = 1e-7, 2.0  # still in this configuration alone: its variance is 0
    own_var[1] = 1e-9 + 1e-5 * var[1]  # and just not
    variables = {
        "params": {
            "u": {
                "conv": {"kernel": kernel[None], "bias": bias},
                "norm": {"scale": scale, "bias": shift},
            }
        },
        "batch_stats": {"u": {"norm": {"mean": mean, "var": var}}},
    }
    own = {"u": {"norm": {"mean": own_mean, "var": own_var}}}
    folded, statistics = fold_norms(variables), fold_statistics(variables, own)
    new = statistics["u"]["norm"]
    assert new["var"][0] == 0
    assert (new["var"] >= 0).all()
    x = 0.7
    y = x * folded["params"]["u"]["conv"]["kernel"][0]
    found = (y - new["mean"]) / np.sqrt(new["var"] + 1e-5) + folded["params"]["u"]["norm"]["bias"]
    wanted = (x * kernel + bias - own_mean) * scale / np.sqrt(own_var + 1e-5) + shift
    np.testing.assert_allclose(found[1:], wanted[1:], rtol=2e-4, atol=2e-4)
    # At its mean each channel gives its bias, the still one too.
    at_mean = (own_mean - bias) / kernel * folded["params"]["u"]["conv"]["kernel"][0]
    left = (at_mean - new["mean"]) / np.sqrt(new["var"] + 1e-5)
    np.testing.assert_allclose(left + folded["params"]["u"]["norm"]["bias"], shift, atol=1e-3)


def test_what_is_no_norm_after_a_convolution_stays_as_it_was_measured():
    ones = np.ones(2, np.float32)
    variables = {
        "params": {"head": {"norm": {"scale": ones, "bias": ones}}},
        "batch_stats": {"head": {"norm": {"mean": ones, "var": ones}}},
    }
    own = {"head": {"norm": {"mean": 3 * ones, "var": 2 * ones}}}
    assert fold_statistics(variables, own)["head"]["norm"]["mean"].tolist() == [3, 3]


def _document(bundle, change):
    """The bytes of a manifest after ``change(document)``, with a right model_id."""
    document = json.loads((bundle / "manifest.json").read_bytes())
    change(document)
    content = {k: v for k, v in document.items() if k != "model_id"}
    return canonical_json(content | {"model_id": digest(canonical_json(content))})


def _statistics(to):
    def change(document):
        document["depths"]["statistics"] = to

    return change


def _segments(place, to):
    def change(document):
        document["ladder"]["segments"][place] = to

    return change


def _before_others(document):
    document["depths"]["statistics"] = [None, None, 3, None]
    document["ladder"]["segments"] = [1, 3, 4, [0, 1, 2, 4, 5]]


def _without_its_block(document):
    document["ladder"] |= {"depth": [0, 2, 1, 3], "segments": [1, [0, 1, 5], 3, 5]}
    document["depths"]["skip_mask"][2] = document["depths"]["skip_mask"][1]


# Its segments: 0 base, 1 and 2 the first blocks, 3 and 4 the second ones, 5 the statistics.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_statistics([None, None, 9, None]), "depths/statistics/2 is 9; there are 6"),
        (_statistics([None, None, "five", None]), "wanted an index or null"),
        (_statistics([None, None, 5]), "wanted equally many"),
        (_statistics("five"), "breaks type"),
        (_statistics([None, 5, 5, None]), "needs the statistics [], and runs with"),
        (_before_others, "must come after all other segments"),
        (_statistics([None] * 4), "the last configuration, 'blockcoml-2', lacks segments"),
        (_segments(2, 3), "must need more segments than 'blockcoml-1.shared'"),
        (_without_its_block, "which configuration 'blockcoml-1.shared' does not keep"),
        (_segments(3, [0, 1, 2, 3, 4, 5]), "wanted its own alone"),
        (_segments(1, [0, 1, 2, 5]), "wanted its own alone"),
    ],
)
def test_a_manifest_whose_statistics_do_not_fit_is_refused(bundle, change, message):
    with pytest.raises(ManifestError) as error:
        Manifest.from_bytes(_document(bundle, change))
    assert message in str(error.value)


def _layout(change):
    """Changes the layout of the statistics, the last that there is."""

    def changed(document):
        layout = document["layouts"][-1]
        change(layout)

    return changed


def _rename(old, new):
    def change(layout):
        for tensor in layout:
            tensor[0] = tensor[0].replace(old, new)

    return _layout(change)


def _resize(layout):
    layout[0][1] = [7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_layout(_resize), "of shape [7]; that of 'stage2_block01' has [16]"),
        (_rename("norm1", "norm9"), "there is none of this name in 'stage2_block01'"),
        (_rename("stage2_block01", "stage9"), "there is none of this name in 'base'"),
        (_rename("stage2_block01", "stage2_block02"), "does not keep"),
        (_rename("mean", "scale"), "is no statistic: it belongs to 'params'"),
    ],
)
def test_a_layout_that_is_not_of_the_units_it_replaces_is_refused(coded_bundle, change, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        Manifest.from_bytes(_document(coded_bundle, change))


def test_statistics_that_cannot_be_are_refused(plain, bundle, tmp_path):
    parts, _, _, own = plain
    for wrong, message in ((np.nan, "not finite"), (-1.0, "variance of -1; wanted 0 or more")):
        trees = jax.tree.map(np.copy, own["blockcoml-1"])
        trees["stage2_block01"]["norm1"]["var"][2] = wrong
        with pytest.raises(BundleError, match=message):
            own_piece("blockcoml-1", trees, 32)
    # Written by somebody else, and with the right digest.
    piece = parts["segments"][OWN]
    arrays = {name: -np.ones(shape, np.float32) for name, shape in piece.layout.shapes.items()}
    (content,) = encode_chain(arrays, [dict.fromkeys(arrays, "float32")])
    bad = dataclasses.replace(piece, content=content)
    folder = write_bundle(tmp_path, **parts | {"segments": parts["segments"] | {OWN: bad}})
    manifest = read_manifest(folder)
    for attempt in (lambda: summary(folder), lambda: load_segment(manifest, OWN, content)):
        with pytest.raises(BundleError, match="variance of -1; wanted 0 or more"):
            attempt()
    # Cut short, or of another layout.
    good = parts["segments"][OWN].content
    for damaged in (good[:-3], good + b"x", b"junk"):
        with pytest.raises(BundleError, match=f"segment '{OWN}' cannot be read"):
            load_segment(read_manifest(bundle), OWN, damaged)


def test_of_safetensors_files_whoever_runs_them_sees_that_statistics_do_not_fit(plain, tmp_path):
    """Their shapes are in the files alone."""
    parts = plain[0]
    unit = "stage2_block01"
    for name, shape, message in (
        (f"{unit}/norm1/mean", (3,), r"shape \(3,\); wanted \(16,\)"),
        (f"{unit}/norm9/mean", (16,), f"{unit}/norm9', and nothing of this name"),
        (f"{unit}/mean", (16,), "nothing of this name"),
        (f"{unit}/norm1/mean/var", (16,), "wanted"),
    ):
        arrays = {name: np.ones(shape, np.float32)}
        (content,) = encode_chain(arrays, [{name: "float32"}])
        bad = Piece(OWN, 32, Layout.of(arrays), content)
        folder = write_bundle(tmp_path, **parts | {"segments": parts["segments"] | {OWN: bad}})
        with pytest.raises(BundleError, match=message):
            of(folder, "blockcoml-1")
        of(folder, "blockcoml-1.shared")  # goes on


def test_merging_leaves_what_it_is_given():
    ones, twos = np.ones(2), 2 * np.ones(2)
    block = Loaded({"batch_stats": {"a": {"norm": {"mean": ones, "var": ones}}}}, None)
    own = Loaded({"batch_stats": {"a": {"norm": {"mean": twos}}}}, None, is_statistics=True)
    norm = merged([block, own])["batch_stats"]["a"]["norm"]
    assert (norm["mean"] is twos, norm["var"] is ones) == (True, True)
    assert block.variables["batch_stats"]["a"]["norm"]["mean"] is ones
