"""Own statistics of a run: which are measured, kept in its folder, counted in its table."""

import jax
import numpy as np
import pytest

from accordion_jax import data
from accordion_jax.depth import LookupTable, make_ladder
from accordion_jax.evaluation import Sweep, make_table, statistics_facts, sweep_own
from accordion_jax.models.costs import unit_costs
from accordion_jax.runs import config as config_lib
from accordion_jax.training import kept_statistics
from tests.training.test_loop import make, small_config

BATCHES = 3
BLOCKCOML = {
    "scheme": "blockcoml",
    "model__arguments__stage_sizes": (3, 3),
    "sweep__own_statistics": BATCHES,
}


@pytest.fixture(scope="module")
def run():
    """(experiment, variables) of a run that has not been trained."""
    experiment = make(**BLOCKCOML)
    return experiment, jax.tree.map(np.asarray, experiment.init().variables)


@pytest.fixture(scope="module")
def kept(run, tmp_path_factory):
    """(workdir, what was measured)."""
    workdir = tmp_path_factory.mktemp("kept")
    experiment, variables = run
    return workdir, kept_statistics.measure_own(
        experiment, variables, experiment.ladder, workdir, write=True
    )


def test_they_are_of_the_units_that_see_other_inputs(run, kept):
    own = kept[1]
    assert list(own) == ["blockcoml-1", "blockcoml-2"]
    # The blocks of the first stage see the same in all; the base may come after any.
    assert set(own["blockcoml-1"]) == {"stem", "stage2_block01"}
    assert set(own["blockcoml-2"]) == {"stem", "stage2_block01", "stage2_block02"}
    for trees in own.values():
        for unit, tree in trees.items():
            assert jax.tree.map(np.shape, tree) == jax.tree.map(
                np.shape, run[1]["batch_stats"][unit]
            )
    ladder = make_ladder("coml", (3, 3))
    assert all(not each.after_a_gap for each in ladder)
    assert [each.after_a_gap for each in run[0].ladder] == [(), (3,), (3, 4), ()]


def test_a_run_that_goes_on_reads_what_is_kept_and_measures_the_rest(run, kept, monkeypatch):
    experiment, variables = run
    workdir, own = kept
    before = {path.name: path.read_bytes() for path in (workdir / "own_statistics").iterdir()}
    assert before.keys() == {"blockcoml-1.safetensors", "blockcoml-2.safetensors"}
    second = workdir / "own_statistics" / "blockcoml-2.safetensors"
    measured = []
    real = kept_statistics.own_statistics

    def counting(experiment, variables, skip_mask, steps):
        measured.append(skip_mask)
        return real(experiment, variables, skip_mask, steps)

    monkeypatch.setattr(kept_statistics, "own_statistics", counting)

    def again(of=variables):
        measured.clear()
        return kept_statistics.measure_own(experiment, of, experiment.ladder, workdir, write=True)

    jax.tree.map(np.testing.assert_array_equal, again(), own)
    assert measured == []
    for spoil in (second.unlink, lambda: second.write_bytes(before[second.name][:100])):
        spoil()
        jax.tree.map(np.testing.assert_array_equal, again(), own)
        assert measured == [experiment.ladder[2].skip_mask]
        # The same seed gives the same bytes.
        assert second.read_bytes() == before[second.name]
    assert not list((workdir / "own_statistics").glob(".*"))
    facts = {"statistics": {"batches": BATCHES, "own": dict.fromkeys(own)}}
    jax.tree.map(
        np.testing.assert_array_equal, kept_statistics.read_own(workdir, variables, facts), own
    )
    assert kept_statistics.read_own(workdir, variables, {}) == {}
    # Of other weights, or another number of batches, they count for nothing.
    other = jax.tree.map(lambda x: x + 1, variables)
    for of, batches in ((other, BATCHES), (variables, BATCHES + 1)):
        wrong = {"statistics": {"batches": batches, "own": dict.fromkeys(own)}}
        with pytest.raises(ValueError, match=r"blockcoml-1\.safetensors is missing, damaged or of"):
            kept_statistics.read_own(workdir, of, wrong)
    again(other)
    assert len(measured) == 2


def test_a_sweep_with_them_is_each_configuration_alone_with_its_own(run, kept):
    experiment, variables = run
    own, ladder = kept[1], experiment.ladder
    test = data.load("digits", "test")
    options = {"batch_size": 45}
    shared = Sweep(experiment.model, ladder.skip_masks, test, **options)(data.replicate(variables))
    counts = sweep_own(experiment.model, ladder, test, variables, own, shared, **options)
    inputs = experiment.task.prepare(test.inputs)
    for i, configuration in enumerate(ladder):
        statistics = variables["batch_stats"] | own.get(configuration.name, {})
        alone = variables | {"batch_stats": statistics}
        mask = configuration.skip_mask
        outputs = jax.jit(lambda v, mask=mask: experiment.model.apply(v, inputs, skip_mask=mask))(
            alone
        )
        wrong = np.asarray(experiment.task.wrong(outputs, test.targets)).sum()
        assert counts.errors[i] == wrong, configuration.name
        loss = np.asarray(experiment.task.loss(outputs, test.targets), np.float64).mean()
        assert counts.cross_entropy[i] == pytest.approx(loss, rel=1e-5)
        if configuration.name not in own:
            assert counts.cross_entropy[i] == shared.cross_entropy[i]
        else:
            assert counts.cross_entropy[i] != shared.cross_entropy[i]

    own_bytes = {name: kept_statistics.size_bytes(found) for name, found in own.items()}
    # Mean and variance in float32, of 4 channels of the stem and two norms of 8 a block.
    assert own_bytes == {"blockcoml-1": 8 * (4 + 16), "blockcoml-2": 8 * (4 + 32)}
    costs = unit_costs(experiment.model, variables, experiment.example_shape)
    facts = {"statistics": statistics_facts(ladder, shared, own_bytes, BATCHES)}
    table = make_table(ladder, counts, *costs, facts, own_bytes)
    plain = make_table(ladder, shared, *costs, {})
    for row, before in zip(table.rows, plain.rows, strict=True):
        more = own_bytes.get(row.configuration, 0)
        assert row.size_bytes == before.size_bytes + more
        assert (row.parameters, row.macs) == (before.parameters, before.macs)
        if more:
            said = facts["statistics"]["own"][row.configuration]
            assert (said["size_bytes"], said["shared_errors"]) == (more, before.errors)
    assert LookupTable.from_json(table.to_json()) == table


def test_where_there_is_nothing_to_measure_it_is_said_before_training():
    experiment = make(**BLOCKCOML)
    kept_statistics.check(experiment, experiment.ladder)
    full_alone = experiment.ladder.subset([6])
    with pytest.raises(ValueError, match="no configuration of blockcoml-3 keeps a block after"):
        kept_statistics.check(experiment, full_alone)
    prefixes = make(**BLOCKCOML | {"scheme": "coml"})
    with pytest.raises(ValueError, match=r"own_statistics=3: no configuration of coml-0, coml-1"):
        kept_statistics.check(prefixes, prefixes.ladder)


@pytest.mark.tries("leave it out of config.sweep.depths")
def test_one_that_would_outgrow_the_next_is_refused():
    """Statistics grow with the blocks: in a very narrow network they outgrow what follows."""
    narrow = make(
        **BLOCKCOML
        | {"model__arguments__stage_sizes": (15, 15), "model__arguments__channels": (1, 1)}
    )
    with pytest.raises(ValueError, match=r"'blockcoml-14' would have \d+ bytes with its own"):
        kept_statistics.check(narrow, narrow.ladder)
    others = narrow.ladder.subset([each.depth for each in narrow.ladder if each.depth != 28])
    kept_statistics.check(narrow, others)


def test_a_family_without_batch_norm_has_none(monkeypatch):
    experiment = make(**BLOCKCOML)
    shapes = experiment.shapes._replace(batch_stats={})
    monkeypatch.setattr(type(experiment), "shapes", shapes)
    with pytest.raises(ValueError, match="the family 'resnet' has no batch norm"):
        kept_statistics.check(experiment, experiment.ladder)


def test_by_default_there_are_none():
    assert config_lib.default_config().sweep.own_statistics == 0
    with pytest.raises(ValueError, match=r"own_statistics=-1 must be at least 0"):
        config_lib.validate(small_config(sweep__own_statistics=-1))
