import pytest

from accordion_jax.delivery.bundle.ordering import Rung, blockwise, passes, rungs_of, uniform
from accordion_jax.depth import make_ladder

NAMES = tuple(f"stage{stage}_block0{block}" for stage in (1, 2) for block in (1, 2))
COML = make_ladder("coml", (2, 2))
BLOCKCOML = make_ladder("blockcoml", (2, 2))


def test_all_blocks_come_in_few_bits_and_then_their_refinements():
    order = blockwise(BLOCKCOML, NAMES, 2)
    sent = ["base", *(f"stage{stage}_block0{block}" for block in (1, 2) for stage in (1, 2))]
    assert order == [(name, step) for step in (0, 1) for name in sent]


def test_each_prefix_that_has_the_blocks_of_a_configuration_is_a_rung():
    rungs = rungs_of(blockwise(COML, NAMES, 2), COML, NAMES)
    assert [rung.name((4, 8)) for rung in rungs] == [
        *(f"coml-{depth}.4" for depth in range(5)),
        *(f"coml-4.4-8.{count}" for count in range(1, 5)),
        "coml-4.8",
    ]
    # Half of a group of blocks is none; all of the bits are.
    rungs = rungs_of(blockwise(BLOCKCOML, NAMES, 2), BLOCKCOML, NAMES)
    assert [rung.configuration.depth for rung in rungs] == [0, 2, 4, 4, 4, 4, 4, 4]
    for rung in rungs:
        kept = {NAMES[block] for block in rung.configuration.blocks}
        assert rung.steps.keys() == {"base", *kept}


def test_a_rung_needs_all_steps_of_its_segments():
    rung = Rung(COML[1], {"base": 2, NAMES[0]: 1})
    assert rung.items == {("base", 0), ("base", 1), ("base", 2), (NAMES[0], 0), (NAMES[0], 1)}
    assert rung.name((4, 6, 8)) == "coml-1.6-8.3"
    assert rung.name((8,)) == "coml-1"


def test_rungs_of_one_precision_are_one_pass():
    for step in (0, 1):
        rungs = uniform(COML, NAMES, step)
        ((steps, together),) = passes(rungs)
        assert together == rungs
        assert steps == dict.fromkeys(("base", *NAMES), step)


@pytest.mark.parametrize("ladder", [COML, BLOCKCOML], ids=["coml", "blockcoml"])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_pass_is_exact_for_each_of_its_rungs(ladder, bits):
    rungs = rungs_of(blockwise(ladder, NAMES, bits), ladder, NAMES)
    rungs += uniform(ladder, NAMES, bits - 1)
    found = list(passes(rungs))
    assert [rung for _, together in found for rung in together] == rungs
    for steps, together in found:
        for rung in together:
            assert rung.steps.items() <= steps.items()
    # One for all depths in few bits, one a refinement, and none for what is off the path: its last
    # depth is the end of the path.
    assert len(found) == 1 + 5 * (bits - 1)
