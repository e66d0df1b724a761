"""Ladders: nested, of the right sizes, and sent in an order that completes them in turn."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.depth import SCHEMES, Configuration, Ladder, make_ladder

RESNET110, RESNET56 = (18, 18, 18), (9, 9, 9)

stage_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
ladders = st.builds(make_ladder, st.sampled_from(sorted(SCHEMES)), stage_sizes)


def ladder_of(*masks, stage_sizes=(2, 1), names=None):
    """A ladder of skip masks written as strings, ``x`` skips a block and ``o`` keeps it."""
    names = names or [f"c{number}" for number in range(len(masks))]
    return Ladder(
        "mine",
        stage_sizes,
        tuple(
            Configuration(name, tuple(letter == "x" for letter in mask))
            for name, mask in zip(names, masks, strict=True)
        ),
    )


@pytest.mark.parametrize(
    ("scheme", "stage_sizes", "size"),
    [
        ("resnet", RESNET110, 55),
        ("coml", RESNET110, 55),
        ("blockcoml", RESNET110, 19),
        ("coml", RESNET56, 28),
        ("blockcoml", RESNET56, 10),
        ("coml", (1,), 2),
        ("blockcoml", (2, 5, 3), 6),
    ],
)
def test_a_ladder_has_the_schemes_number_of_configurations(scheme, stage_sizes, size):
    ladder = make_ladder(scheme, stage_sizes)
    assert len(ladder) == len(list(ladder)) == len(ladder.skip_masks) == size
    assert ladder.scheme == scheme
    assert ladder.stage_sizes == stage_sizes


@given(ladders)
def test_each_configuration_keeps_every_block_of_the_smaller_ones(ladder):
    for small, large in itertools.pairwise(ladder):
        assert set(small.blocks) < set(large.blocks)
        assert small.depth < large.depth
    assert ladder[0].depth == 0
    assert ladder.full is ladder[-1]
    assert ladder.full.blocks == tuple(range(sum(ladder.stage_sizes)))
    assert len({configuration.name for configuration in ladder}) == len(ladder)


@given(ladders)
def test_the_three_ways_to_say_what_is_kept_agree(ladder):
    for configuration, mask in zip(ladder, ladder.skip_masks, strict=True):
        assert configuration.skip_mask == mask
        assert len(mask) == sum(ladder.stage_sizes)
        assert configuration.depth == len(configuration.blocks) == mask.count(False)
        assert all(not mask[block] for block in configuration.blocks)
        by_stage = ladder.stage_blocks(configuration)
        assert len(by_stage) == len(ladder.stage_sizes)
        assert sum(by_stage) == configuration.depth


@pytest.mark.parametrize("scheme", ["resnet", "coml"])
@given(stage_sizes=stage_sizes)
def test_coml_keeps_prefixes_of_the_block_sequence(scheme, stage_sizes):
    for depth, configuration in enumerate(make_ladder(scheme, stage_sizes)):
        assert configuration.name == f"{scheme}-{depth}"
        assert configuration.blocks == tuple(range(depth))


@given(stage_sizes)
def test_blockcoml_keeps_the_first_blocks_of_every_stage(stage_sizes):
    ladder = make_ladder("blockcoml", stage_sizes)
    assert len(ladder) == max(stage_sizes) + 1
    for k, configuration in enumerate(ladder):
        assert configuration.name == f"blockcoml-{k}"
        expected, start = [], 0
        for size in stage_sizes:
            expected += range(start, start + min(k, size))
            start += size
        assert configuration.blocks == tuple(expected)
        assert ladder.stage_blocks(configuration) == tuple(min(k, size) for size in stage_sizes)


def test_stages_of_the_papers_network():
    coml, blockcoml = (make_ladder(scheme, RESNET110) for scheme in ("coml", "blockcoml"))
    assert coml.stage_blocks(coml[27]) == (18, 9, 0)
    assert coml.stage_blocks(coml[36]) == (18, 18, 0)
    assert blockcoml.stage_blocks(blockcoml[9]) == (9, 9, 9)
    assert blockcoml[1].blocks == (0, 18, 36)


@given(ladders)
def test_prefixes_of_the_sending_order_complete_each_configuration_in_turn(ladder):
    order = ladder.sending_order
    assert sorted(order) == list(range(sum(ladder.stage_sizes)))
    for configuration in ladder:
        assert set(order[: configuration.depth]) == set(configuration.blocks)


def test_the_sending_order_of_blockcoml_goes_from_stage_to_stage():
    assert make_ladder("blockcoml", (3, 1, 2)).sending_order == (0, 3, 4, 1, 5, 2)
    assert make_ladder("coml", (3, 1, 2)).sending_order == (0, 1, 2, 3, 4, 5)


@given(ladders, st.data())
def test_a_subset_keeps_the_wanted_depths_and_the_full_model(ladder, data):
    depths = [configuration.depth for configuration in ladder]
    wanted = data.draw(st.lists(st.sampled_from(depths)))
    subset = ladder.subset(wanted)
    expected = {*wanted, depths[-1]}
    assert list(subset) == [c for c in ladder if c.depth in expected]
    assert (subset.scheme, subset.stage_sizes) == (ladder.scheme, ladder.stage_sizes)


def test_a_depth_that_is_not_on_the_ladder_is_named():
    with pytest.raises(ValueError, match=r"depth 4 is not .*'blockcoml'.*\[0, 3, 6\]"):
        make_ladder("blockcoml", (2, 2, 2)).subset([3, 4, 7])


def test_a_ladder_of_ones_own_need_not_be_a_scheme():
    ladder = ladder_of("xxo", "oxo", "ooo")
    assert [configuration.blocks for configuration in ladder] == [(2,), (0, 2), (0, 1, 2)]
    assert ladder.sending_order == (2, 0, 1)
    assert ladder.stage_blocks(ladder[1]) == (1, 1)


@pytest.mark.parametrize(
    ("masks", "names", "message"),
    [
        ([], None, "needs at least one configuration"),
        (["xxx", "oo", "ooo"], None, r"'c1' has a skip mask of 2 blocks; .*\(2, 1\) has 3"),
        (["xxx", "ooo"], ["same", "same"], r"unique; got \['same', 'same'\]"),
        (["xxo", "oox", "ooo"], None, r"'c1' must keep every block of 'c0'.*\(0, 1\).*\(2,\)"),
        (["oxx", "oxx", "ooo"], None, "'c1' must keep every block of 'c0' and at least one more"),
        (["ooo", "oxx"], None, "'c1' must keep every block of 'c0'"),
        (["xxx", "oox"], None, "last configuration, 'c1', must keep all 3 blocks; it keeps 2"),
    ],
)
def test_what_is_not_a_ladder_is_refused(masks, names, message):
    with pytest.raises(ValueError, match=message):
        ladder_of(*masks, names=names)


def test_an_unknown_scheme_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"scheme='CoML' .*\['blockcoml', 'coml', 'resnet'\]"):
        make_ladder("CoML", RESNET110)


@pytest.mark.parametrize("stage_sizes", [(), (3, 0, 3), [2, -1]])
def test_a_stage_without_blocks_is_refused(stage_sizes):
    with pytest.raises(ValueError, match=r"stage_sizes=\(.*every stage needs at least one block"):
        make_ladder("coml", stage_sizes)
