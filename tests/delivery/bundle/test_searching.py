import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.delivery.bundle import searching
from accordion_jax.delivery.bundle.encoding import Measured
from accordion_jax.delivery.bundle.ordering import rungs_of
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.searching import find_order, passes_of_search, path
from tests.delivery.resnets import make_resnet

BASE = ("stem", "head")


@pytest.fixture(scope="module", params=[("coml", (4, 8)), ("blockcoml", (2, 4, 8)), ("coml", (6,))])
def network(request):
    """(chains, ladder, names of blocks)."""
    scheme, bits = request.param
    model, variables, ladder, _ = make_resnet(scheme, (1, 2, 1))
    names = model.block_names
    return Chains(variables, base_names=BASE, block_names=names, bits=bits), ladder, names


def steps_in(chains, variables):
    """At which step each segment of variables is."""
    found = {}
    for name in chains.names:
        unit = "stem" if name == "base" else name
        kernel = "conv" if name == "base" else "conv1"
        for step in range(len(chains.bits)):
            wanted = chains.variables({name: step})["params"][unit][kernel]["kernel"]
            if np.array_equal(variables["params"][unit][kernel]["kernel"], wanted):
                found[name] = step
    return found


def measure_of(network, seen, weight):
    """Errors and losses that are a sum over what is there; `seen` counts the passes."""
    chains, _, names = network

    def measure(asked, skip_masks):
        variables = chains.variables(asked)
        seen.append(variables)
        steps = steps_in(chains, variables)
        found = []
        for mask in skip_masks:
            kept = ["base", *(name for name, skip in zip(names, mask, strict=True) if not skip)]
            saved = sum(weight(name, step) for name in kept for step in range(steps[name] + 1))
            found.append(Measured(10_000, 10_000 - saved, 10 - saved / 1000))
        return found

    return measure


def test_every_step_of_every_segment_comes_once_and_after_the_one_before(network):
    chains, ladder, names = network
    seen, rng = [], np.random.default_rng(0)
    weights = {(n, s): int(rng.integers(1, 300)) for n in chains.names for s in range(3)}
    passes = []
    order = find_order(
        chains,
        ladder,
        names,
        measure_of(network, seen, lambda *item: weights[item]),
        lambda: passes.append(1),
    )
    assert len(order) == len(set(order)) == len(chains.names) * len(chains.bits)
    for name in chains.names:
        assert [step for each, step in order if each == name] == list(range(len(chains.bits)))
    blocks = [name for name, step in order if step == 0]
    assert blocks == ["base", *(names[block] for block in ladder.sending_order)]
    assert len(passes) == len(seen) == passes_of_search(chains)
    # All of the way is a path of models that run, but for halves of a group of blocks.
    rungs = rungs_of(order, ladder, names)
    assert [rung.configuration for rung in rungs][-1] is ladder.full
    assert {rung.configuration for rung in rungs} == set(ladder)


def test_what_saves_more_errors_a_byte_comes_first():
    model, variables, ladder, _ = make_resnet("coml", (1, 2, 1))
    names = model.block_names
    chains = Chains(variables, base_names=BASE, block_names=names, bits=(4, 8))

    def order_of(worth):
        """The order where each of these saves so many errors a byte, and all else one."""

        def weight(name, step):
            return round(worth.get((name, step), 1) * chains.size_bytes(name, step) / 100)

        network = chains, ladder, names
        return find_order(chains, ladder, names, measure_of(network, [], weight))

    third = names[2]
    order = order_of({(third, 1): 3, (names[1], 0): 2, (names[2], 0): 2})
    # It comes as soon as its block is there, which the blocks before it lead to.
    assert order[order.index((third, 1)) - 1] == (third, 0)
    worthless = order_of({(third, 1): 0})
    assert worthless[-1] == (third, 1)
    # Blocks that save nothing wait for all bits of those that do.
    shallow = order_of({(name, step): 0 for name in names[1:] for step in (0, 1)})
    assert set(shallow[:4]) == {(name, step) for name in ("base", names[0]) for step in (0, 1)}


grids = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        st.lists(
            st.integers(0, 100), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
        ).map(lambda values: np.array(values).reshape(shape)),
        st.lists(st.integers(1, 50), min_size=sum(shape), max_size=sum(shape)),
    )
)


def mean_error(way, errors, sizes):
    """Over the logarithm of what has arrived, with what comes before."""
    arrived = np.log(sizes + searching._BEFORE)
    spans = ((arrived[after] - arrived[at], errors[at]) for at, after in itertools.pairwise(way))
    return sum(span * error for span, error in spans)


def ways(at, last):
    """All ways from a state to the last one."""
    if at == last:
        yield [at]
    for after in itertools.product(range(at[0], last[0] + 1), range(at[1], last[1] + 1)):
        if after != at:
            yield from ([at, *rest] for rest in ways(after, last))


@given(grids)
def test_a_path_has_the_least_mean_error_of_all(grid):
    errors, more = grid
    errors, more = errors[:3, :3], [1000 * each for each in more]
    depths, columns = errors.shape
    # Bytes of blocks, and of refinements of them.
    sizes = np.cumsum(more[:depths])[:, None] + np.cumsum(more[-columns:])[None, :]
    mean, found = path(errors, sizes)
    last = depths - 1, columns - 1
    assert found[0] == (0, 0)
    assert found[-1] == last
    least = min(mean_error(way, errors, sizes) for way in ways((0, 0), last))
    assert mean_error(found, errors, sizes) == pytest.approx(least, abs=1e-9)
    assert mean == pytest.approx(least, abs=1e-9)


def test_bits_that_are_a_burden_later_are_not_sent_first():
    # The first refinement saves a little at the smallest depth, and makes the others worse.
    errors = np.array([[790, 770, 770], [650, 690, 690], [100, 200, 90]])
    sizes = np.array([[400, 450, 500], [4000, 4050, 8000], [50_000, 50_050, 100_000]])
    assert path(errors, sizes)[1] == [(0, 0), (1, 0), (2, 0), (2, 2)]
    # Where it makes none worse, it comes at once.
    errors[:, 1] = [770, 640, 95]
    assert path(errors, sizes)[1][:3] == [(0, 0), (0, 1), (1, 1)]


def test_many_refinements_share_the_columns_of_the_grid(network, monkeypatch):
    chains, ladder, names = network
    monkeypatch.setattr(searching, "_COLUMNS", 2)
    seen = []
    order = find_order(chains, ladder, names, measure_of(network, seen, lambda *_: 10))
    assert len(seen) == passes_of_search(chains)
    assert len(order) == len(chains.names) * len(chains.bits)


def test_refinements_that_were_trained_together_are_sent_together():
    model, variables, ladder, _ = make_resnet("coml", (1, 2, 1))
    names = model.block_names
    chains = Chains(variables, base_names=BASE, block_names=names, bits=(2, 4, 8))

    def measure(asked, skip_masks):
        """Refinements are of use where all of a step are there; by themselves the last one is."""
        steps = steps_in(chains, chains.variables(asked))
        whole = min(steps.values())
        alone = steps["base"] == 2
        lost = 0 if whole == max(steps.values()) else 20
        errors = [1000 - 100 * mask.count(False) - 50 * whole + lost for mask in skip_masks]
        return [Measured(10_000, each, each / 1000 - 5 * alone) for each in errors]

    order = find_order(chains, ladder, names, measure)
    refinements = [step for _, step in order if step]
    assert refinements == sorted(refinements)
    assert len(order) == 3 * len(chains.names)
