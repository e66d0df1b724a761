import itertools

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from absl import app
from jax import numpy as jnp

from accordion_jax import data
from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.reading import segment_path, summary, verify_bundle
from accordion_jax.delivery.bundle.variables import Loaded, load_variables
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row
from accordion_jax.models import ResNet, build, describe
from tests.commands import call_main


def make_run(stage_sizes, scheme, **arguments):
    """A network that has not been trained, and a look-up table with its true sizes."""
    model = ResNet(10, stage_sizes, **arguments)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)
    ladder = make_ladder(scheme, stage_sizes)

    def cost(*units):
        leaves = [
            leaf
            for collection in variables.values()
            for unit in units
            for leaf in jax.tree.leaves(collection.get(unit, {}))
        ]
        return UnitCost(sum(x.size for x in leaves), sum(x.nbytes for x in leaves), 1000)

    blocks = tuple(cost(name) for name in model.block_names)
    rows = tuple(
        make_row(
            ladder,
            configuration,
            base=cost(*model.base_names),
            blocks=blocks,
            examples=100,
            errors=90 - configuration.depth,
            cross_entropy=1.0,
        )
        for configuration in ladder
    )
    return model, variables, ladder, LookupTable(rows, {"scheme": scheme})


def parts_of(model, variables, ladder, table):
    return bundle_parts(
        variables,
        base_names=model.base_names,
        block_names=model.block_names,
        description=describe(model) | {"input": {"shape": [32, 32, 3]}, "classes": None},
        ladder=ladder,
        table=table,
    )


@pytest.mark.parametrize("own_heads", [False, True])
@pytest.mark.parametrize("scheme", ["coml", "blockcoml"])
def test_every_configuration_is_rebuilt_from_its_segments(tmp_path, scheme, own_heads):
    model, variables, ladder, table = make_run((1, 1, 1), scheme, own_heads=own_heads)
    bundle = write_bundle(tmp_path, **parts_of(model, variables, ladder, table))
    manifest = verify_bundle(bundle)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 3)), jnp.float32)
    rebuilt_model = build(manifest.model)
    rebuilt = {"params": {}, "batch_stats": {}}
    sent = iter(manifest.segments)
    for held, wanted in zip(manifest.ladder, ladder, strict=True):
        assert held.skip_mask == wanted.skip_mask
        for segment in sent:
            tensors = safetensors.numpy.load_file(segment_path(bundle, segment.sha256))
            for name, array in tensors.items():
                path = name if segment.name == "base" else f"{segment.name}/{name}"
                *parents, last = path.split("/")
                node = rebuilt[manifest.collection(name)]
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[last] = array
            if segment.name == held.segments[-1]:
                break
        np.testing.assert_array_equal(
            rebuilt_model.apply(rebuilt, images, skip_mask=held.skip_mask),
            model.apply(variables, images, skip_mask=wanted.skip_mask),
        )
    jax.tree.map(np.testing.assert_array_equal, rebuilt, dict(variables))


@pytest.mark.parametrize("stage_sizes", [(3, 3, 3), (18, 18, 18)], ids=["ResNet-20", "ResNet-110"])
def test_segments_are_at_most_one_percent_larger_than_the_arrays(tmp_path, stage_sizes):
    model, variables, ladder, table = make_run(stage_sizes, "blockcoml")
    bundle = write_bundle(tmp_path, **parts_of(model, variables, ladder, table))
    manifest = verify_bundle(bundle)
    raw = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert sum(segment.tensor_bytes for segment in manifest.segments) == raw
    assert raw < sum(segment.size_bytes for segment in manifest.segments) <= 1.01 * raw
    assert "every digest checked" in summary(bundle)


def test_segments_open_in_pytorch(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import safetensors.torch

    model, variables, ladder, table = make_run((1, 1, 1), "coml")
    parts = parts_of(model, variables, ladder, table)
    bundle = write_bundle(tmp_path, **parts)
    for segment in verify_bundle(bundle).segments:
        tensors = safetensors.torch.load_file(segment_path(bundle, segment.sha256))
        assert tensors.keys() == parts["segments"][segment.name].keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor.numpy(), parts["segments"][segment.name][name])


def test_only_configurations_that_were_measured_are_on_the_ladder(tmp_path):
    model, variables, ladder, table = make_run((1, 1, 1), "coml")
    few = LookupTable((table.rows[1], table.rows[3]), {"step": 7, "config": {"much": "more"}})
    manifest = verify_bundle(write_bundle(tmp_path, **parts_of(model, variables, ladder, few)))
    assert [c.segments for c in manifest.ladder] == [
        ("base", "stage1_block01"),
        ("base", "stage1_block01", "stage2_block01", "stage3_block01"),
    ]
    assert manifest.provenance == manifest.table.provenance == few.provenance


@pytest.mark.slow
def test_a_trained_run_becomes_a_bundle(tmp_path, run_command):
    run, out = tmp_path / "run", tmp_path / "bundles"
    trained = run_command(
        "accordion_jax.main",
        "--config=configs/quickstart.py",
        "--config.model.arguments.stage_sizes=(1,1,1)",
        "--config.train.epochs=0.1",
        "--config.sweep.examples=64",
        f"--workdir={run}",
    )
    assert trained.returncode == 0, trained.stderr
    older = "0" * 64
    first = run_command(
        "accordion_jax.bundle",
        f"--workdir={run}",
        f"--out={out}",
        f"--follows={older}",
        "--bits=32",
    )
    assert first.returncode == 0, first.stderr
    [bundle] = out.iterdir()
    manifest = verify_bundle(bundle)
    assert f"model_id  {manifest.model_id}" in first.stdout
    assert "4 configurations" in first.stdout
    plain = LookupTable.read(run)
    for row, before in zip(manifest.table.rows, plain.rows, strict=True):
        names = ("configuration", "depth", "macs", "parameters", "errors", "examples", "bits")
        assert [getattr(row, name) for name in names] == [getattr(before, n) for n in names]
    # Of the config, what differs from the default.
    config, there = (each.provenance["config"] for each in (plain, manifest))
    assert there["train"]["epochs"] == config["train"]["epochs"] == 0.1
    assert config["run"]["keep_checkpoints"] == 2
    assert "keep_checkpoints" not in there.get("run", {})
    _check_bits(run, tmp_path / "bits", run_command)
    assert manifest.model["input"]["shape"] == [8, 8, 1]
    assert manifest.follows == older
    # A table of other weights is refused.
    table = LookupTable.read(run)
    LookupTable(table.rows, table.provenance | {"step": 99}).write(run)
    with pytest.raises(ValueError, match="was measured at step 99"):
        call_main("bundle", f"--workdir={run}", f"--out={out}")


def _check_bits(run, out, run_command):
    """Without --bits, each model of some blocks and bits is measured as a device runs it."""
    made = run_command("accordion_jax.bundle", f"--workdir={run}", f"--out={out}")
    assert made.returncode == 0, made.stderr
    [bundle] = out.iterdir()
    manifest = verify_bundle(bundle)
    assert manifest.provenance["bits"] == [4, 8]
    assert manifest.provenance["order"] == {"examples": 1437, "split": "train"}
    assert manifest.ladder[-1].name == "coml-3.8"
    assert {each.depth for each in manifest.rows.values()} == {0, 1, 2, 3}
    # Of the same blocks in more bytes those that err less.
    *others, _ = manifest.table.rows
    for row, later in itertools.combinations(others, 2):
        assert row.depth != later.depth or row.errors > later.errors
    test = data.load("digits", "test").select(np.arange(64))
    network = runtimes.make(manifest)
    inputs = network.task.prepare(test.inputs)
    for configuration in manifest.ladder:
        variables = load_variables(
            manifest, lambda sha256: segment_path(bundle, sha256).read_bytes(), configuration
        )
        outputs = network.compile(configuration, [Loaded(variables, None)], 64)(inputs)
        row = manifest.rows[configuration.name]
        assert (row.examples, row.errors) == (64, np.sum(outputs.argmax(-1) != test.targets))
    for wrong, message in (("many", "wanted numbers, as 4,8"), ("8,4", "several that grow")):
        with pytest.raises((app.UsageError, ValueError), match=message):
            call_main("bundle", f"--workdir={run}", f"--out={out}", f"--bits={wrong}")


def test_what_does_not_belong_together_is_refused():
    model, variables, ladder, table = make_run((1, 1, 1), "coml")
    with pytest.raises(ValueError, match="not of one run"):
        parts_of(model, variables, make_ladder("coml", (2, 2, 2)), table)
    wide = ResNet(100, (1, 1, 1))
    other = jax.eval_shape(wide.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    other = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), other)
    with pytest.raises(ValueError, match="the table is not of these weights"):
        parts_of(model, other, ladder, table)
    with pytest.raises(ValueError, match="no row of the full model, 'coml-3'"):
        parts_of(model, variables, ladder, LookupTable(table.rows[:2], {}))
    odd = {"params": variables["params"] | {"stem": {"mean": np.zeros(3)}}}
    with pytest.raises(ValueError, match="params/stem/mean would be taken for batch_stats"):
        parts_of(model, odd, ladder, table)
    with pytest.raises(ValueError, match="no parameters of 'stem'"):
        parts_of(model, {"params": {}}, ladder, table)
