"""The cost of objectives: which programs are timed, and for how many steps each stands."""

import pytest

from accordion_jax.training import single
from benchmarks.training.objectives import METHODS, Method, representatives
from benchmarks.work import Options

OPTIONS = Options(depth_n=2, batch_size=8, examples=32, sweep_examples=8)
DRAWS = [single(OPTIONS.mask(depth)) for depth in (3, 1, 3, 2, 3, 3)]


@pytest.mark.parametrize(
    ("count", "shares"),
    [
        (3, {1: 1 / 6, 2: 1 / 6, 3: 4 / 6}),
        (9, {1: 1 / 6, 2: 1 / 6, 3: 4 / 6}),
        (2, {1: 2 / 6, 3: 4 / 6}),
        (1, {1: 1.0}),
    ],
)
def test_each_timed_program_stands_for_those_nearest_to_it(count, shares):
    found = representatives(DRAWS, count)
    assert {draw.depth: share for draw, share in found.items()} == pytest.approx(shares)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CoML-05", "expected distilled", "BlockCoML-05 sandwich"])
def test_a_method_is_made_and_timed(name):
    method = Method(OPTIONS, METHODS[name], 2)
    assert method.first_step() > 0
    programs, seconds = method.all_programs()
    assert programs == {"CoML-05": 6, "expected distilled": 1}.get(name, programs)
    assert seconds >= 0
    assert method.temporary_mb() > 0
    assert method.mean_step() > 0
