import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accordion_jax.delivery.planner import MOST, Requirements, plan
from tests.delivery.toys import make_chained, make_manifest

MB = 10**6


@st.composite
def manifests(draw):
    """Ladders of any growth; errors need not fall with size, nor MACs grow with it."""
    if draw(st.booleans()):
        return draw(chained())
    count = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    ends = sorted(draw(st.sets(st.integers(1, count), max_size=count)) | {count})
    errors = draw(st.lists(ERRORS, min_size=len(ends), max_size=len(ends)))
    macs = draw(st.lists(st.integers(0, 9), min_size=len(ends), max_size=len(ends)))
    return make_manifest(sizes, errors, macs=macs, ends=ends)


ERRORS = st.sampled_from([0.05, 0.1, 0.2, 0.4, 0.9])


@st.composite
def chained(draw):
    """Blocks in few bits and refinements of them; configurations off the path, as sets."""
    count = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    refinements = draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    errors = draw(st.lists(ERRORS, min_size=2 * count, max_size=2 * count))
    names = ["base", *(f"block{i:02d}" for i in range(1, count))]
    order = [*names, *(f"{name}.8" for name in names)]
    size_of = dict(zip(order, sizes + refinements, strict=True))
    taken = {sum(map(size_of.get, order[: i + 1])) for i in range(len(order))}
    others = []
    for _ in range(draw(st.integers(0, 4))):
        kept = draw(st.integers(0, count - 1))
        refined = draw(st.sets(st.sampled_from(names[: kept + 1])))
        needed = [*names[: kept + 1], *(f"{name}.8" for name in names if name in refined)]
        size = sum(map(size_of.get, needed))
        if size not in taken:  # a table's rows grow
            taken.add(size)
            others.append((needed, kept, draw(ERRORS)))
    return make_chained(sizes, refinements, errors, others)


requirements = st.builds(
    lambda max_bytes, link, max_error, max_macs, max_memory_bytes: Requirements(
        max_bytes, link[0], link[1], max_error, max_macs, max_memory_bytes=max_memory_bytes
    ),
    st.none() | st.integers(0, 5000),
    st.just((None, None))
    | st.tuples(
        st.none() | st.floats(0, 10), st.sampled_from([0, 0.0, 1e-300, 100.0, 800.0, 8000.0, 10**9])
    ),
    st.none() | st.sampled_from([0.0, 0.05, 0.15, 0.4, 1.0]),
    st.none() | st.integers(0, 9) | st.sampled_from([2000, 10**400]),
    st.none() | st.sampled_from([0, 63, 64, 128, 1000, 10**400]),
)


@st.composite
def problems(draw):
    manifest = draw(manifests())
    digests = [segment.sha256 for segment in manifest.segments]
    held = draw(st.sets(st.sampled_from([*digests, "f" * 64])))
    return manifest, draw(requirements), held


def outcomes(manifest, held):
    """(configuration, bytes, error, macs, memory) of all configurations, by the definition."""
    for configuration in manifest.ladder:
        needed = [manifest.by_name[name] for name in configuration.segments]
        missing = [s for s in needed if s.sha256 not in held]
        row = manifest.table.row(configuration.name)
        units = {s.unit: s.tensor_bytes for s in needed}
        size = sum(s.size_bytes for s in missing)
        yield configuration.name, size, row.top1_error, row.macs, sum(units.values())


def seconds(size, link):
    return 0.0 if not size else size * 8 / link if link else math.inf


def within(outcome, req):
    _, size, _, macs, memory = outcome
    return (
        (req.max_bytes is None or size <= req.max_bytes)
        and (req.max_macs is None or macs <= req.max_macs)
        and (req.max_memory_bytes is None or memory <= req.max_memory_bytes)
        and (req.deadline_s is None or seconds(size, req.throughput_bps) <= req.deadline_s)
    )


def test_the_papers_example():
    """10 MB, 240 Mbit/s, 200 ms: 60 % of the model."""
    manifest = make_manifest([MB] * 10, [0.9 - 0.08 * i for i in range(10)])
    result = plan(manifest, Requirements(deadline_s=0.2, throughput_bps=240e6))
    assert result.transfer_bytes == 0.6 * manifest.size_bytes
    assert result.configuration == "toy-5"
    assert result.expected_seconds == pytest.approx(0.2)
    assert not result.unmet


@settings(deadline=None)
@given(problems())
def test_is_the_best_by_brute_force(problem):
    manifest, req, held = problem
    result = plan(manifest, req, held)
    feasible = [o for o in outcomes(manifest, held) if within(o, req)]
    reaching = [o for o in feasible if req.max_error is None or o[2] <= req.max_error]
    if not feasible:
        assert result.configuration is None
        assert result.missing == ()
        assert result.unmet
    elif not reaching:
        assert result.unmet == ("max_error",)
        assert result.expected_error == min(o[2] for o in feasible)
    else:
        assert result.unmet == ()
        if req.max_error is None:
            wanted = min((o[2], o[1]) for o in reaching)
            assert (result.expected_error, result.transfer_bytes) == wanted
        else:
            wanted = min((o[1], o[2]) for o in reaching)
            assert (result.transfer_bytes, result.expected_error) == wanted


@settings(deadline=None)
@given(problems())
def test_sends_exactly_what_is_missing(problem):
    manifest, req, held = problem
    result = plan(manifest, req, held)
    order = [segment.name for segment in manifest.segments]
    assert result.transfer_bytes == sum(segment.size_bytes for segment in result.missing)
    assert not {segment.sha256 for segment in result.missing} & held
    assert [s.name for s in result.missing] == sorted(
        (s.name for s in result.missing), key=order.index
    )
    if result.configuration is not None:
        needed = set(manifest.configurations[result.configuration].segments)
        after = held | {segment.sha256 for segment in result.missing}
        assert {s.sha256 for s in manifest.segments if s.name in needed} <= after
        assert {s.name for s in result.missing} <= needed


@settings(deadline=None)
@given(problems())
def test_bounds_always_hold(problem):
    manifest, req, held = problem
    result = plan(manifest, req, held)
    assert req.max_bytes is None or result.transfer_bytes <= req.max_bytes
    if req.deadline_s is not None:
        assert result.expected_seconds is not None
        assert result.expected_seconds <= req.deadline_s
    if req.max_macs is not None and result.configuration is not None:
        assert manifest.rows[result.configuration].macs <= req.max_macs
    if req.max_memory_bytes is not None and result.configuration is not None:
        chosen = manifest.configurations[result.configuration]
        assert manifest.memory_bytes(chosen) <= req.max_memory_bytes
    if not result.unmet and req.max_error is not None:
        assert result.expected_error <= req.max_error


@settings(deadline=None)
@given(problems(), st.floats(0, 10))
def test_more_time_never_makes_it_worse(problem, more):
    manifest, req, held = problem
    if req.deadline_s is None:
        req = dataclasses.replace(req, deadline_s=0.5, throughput_bps=800.0)
    later = dataclasses.replace(req, deadline_s=req.deadline_s + more)
    first, second = plan(manifest, req, held), plan(manifest, later, held)
    assert set(second.unmet) <= set(first.unmet) | {"max_error"}
    if "max_error" in second.unmet:
        assert first.unmet
    if first.configuration is not None and (req.max_error is None or first.unmet):
        assert second.expected_error <= first.expected_error
    if not first.unmet:
        assert second.transfer_bytes <= first.transfer_bytes or req.max_error is None


@settings(deadline=None)
@given(problems())
def test_never_worse_than_what_is_held(problem):
    manifest, req, held = problem
    result = plan(manifest, req, held)
    have = [o for o in outcomes(manifest, held) if o[1] == 0 and within(o, req)]
    for outcome in have:
        assert result.expected_error is not None
        assert result.expected_error <= outcome[2]
        if req.max_error is not None and outcome[2] <= req.max_error:
            assert result.missing == ()


@settings(deadline=None)
@given(manifests(), st.integers(1, 7))
def test_after_a_plan_is_carried_out_nothing_is_missing(manifest, budget):
    req = Requirements(max_error=0.2)
    held = {s.sha256 for s in plan(manifest, req).missing}
    assert plan(manifest, req, held).missing == ()


def test_equal_segments_are_sent_once():
    manifest = make_manifest([100, 50, 50], [0.9, 0.5, 0.1])
    twin = dataclasses.replace(manifest.segments[2], sha256=manifest.segments[1].sha256)
    manifest = dataclasses.replace(manifest, segments=(*manifest.segments[:2], twin))
    assert manifest.size_bytes == 150
    result = plan(manifest, Requirements(max_bytes=150))
    assert result.configuration == "toy-2"
    assert [s.name for s in result.missing] == ["base", "block01"]
    assert result.transfer_bytes == 150


@pytest.mark.parametrize(
    ("req", "unmet", "reason"),
    [
        ({"max_bytes": 99}, ("max_bytes",), "toy-0 needs 100 more bytes"),
        ({"max_macs": 3}, ("max_macs",), "toy-0 needs 1000 multiply-accumulates"),
        (
            {"deadline_s": 0.5, "throughput_bps": 1000.0},
            ("deadline_s",),
            "toy-0 needs 0.8 s for 100 bytes at 1000 bit/s",
        ),
        ({"deadline_s": 1, "throughput_bps": 0}, ("deadline_s",), "toy-0 needs inf s"),
        ({"max_error": 0.01}, ("max_error",), "toy-2, has an error of 0.1"),
        (
            {"max_error": 0.1, "max_bytes": 160},
            ("max_error",),
            "the best within max_bytes, toy-1, has an error of 0.3; toy-2 would have 0.1",
        ),
        ({"max_memory_bytes": 99}, ("max_memory_bytes",), "toy-0 needs 100 bytes of unpacked"),
        ({"max_bytes": 1, "max_macs": 1}, ("max_macs", "max_bytes"), "max_macs=1 is too low"),
    ],
)
def test_broken_requirements_are_named(req, unmet, reason):
    manifest = make_manifest([100, 50, 60], [0.9, 0.3, 0.1])
    result = plan(manifest, Requirements(**req))
    assert result.unmet == unmet
    assert len(result.reasons) == len(unmet)
    assert reason in result.reasons[0]


def test_a_device_bound_by_operations_gets_bits_rather_than_blocks():
    """Of about the same bytes: two blocks in 4 bits, or one in 8."""
    manifest = make_chained([100, 50, 90], [35, 50], [0.9, 0.5, 0.3, 0.28, 0.27], [(BITS, 1, 0.4)])
    budget = Requirements(max_bytes=240)
    assert plan(manifest, budget).configuration == "path-2"
    bound = dataclasses.replace(budget, max_macs=2000)
    made = plan(manifest, bound)
    assert made.configuration == "other-0"
    assert [segment.name for segment in made.missing] == list(BITS)
    assert made.transfer_bytes == 235
    small = dataclasses.replace(budget, max_memory_bytes=2 * 64)
    assert plan(manifest, small).configuration == "other-0"
    # Of what is held of a block, only the refinement is missing.
    held = {manifest.by_name[name].sha256 for name in ("base", "block01", "base.8")}
    assert [s.name for s in plan(manifest, bound, held).missing] == ["block01.8"]


BITS = ("base", "block01", "base.8", "block01.8")


def test_what_has_begun_to_arrive_need_not_come_again():
    manifest = make_manifest([100, 50, 60], [0.9, 0.3, 0.1])
    base, second, third = (segment.sha256 for segment in manifest.segments)
    asked = Requirements(max_bytes=20)
    made = plan(manifest, asked, {base}, {second: 30, third: 60})
    assert (made.configuration, made.transfer_bytes) == ("toy-2", 20)
    assert [segment.sha256 for segment in made.missing] == [second, third]
    # More than there is of it, what is held already, and what is of another model, count nothing.
    assert plan(manifest, asked, {base}, {second: 99, base: 100, "f" * 64: 9}).transfer_bytes == 0
    assert plan(manifest, asked, {base}, {third: 60}).configuration == "toy-0"


def test_no_throughput_needs_nothing_that_is_held():
    manifest = make_manifest([100, 50], [0.9, 0.3])
    held = {manifest.segments[0].sha256}
    result = plan(manifest, Requirements(deadline_s=1, throughput_bps=0), held)
    assert (result.configuration, result.expected_seconds, result.unmet) == ("toy-0", 0.0, ())
    endless = plan(manifest, Requirements(throughput_bps=0), held)
    assert (endless.configuration, endless.expected_seconds) == ("toy-1", None)


@pytest.mark.parametrize(
    ("req", "message"),
    [
        ({"max_bytes": -1}, "max_bytes=-1 must not be negative"),
        ({"max_bytes": 1.5}, "max_bytes=1.5 must be an integer"),
        ({"max_bytes": True}, "max_bytes=True must be an integer"),
        ({"max_error": 27}, "max_error=27 must be a share"),
        ({"max_error": "0.1"}, "must be a number"),
        ({"deadline_s": 0.1}, "needs throughput_bps"),
        ({"deadline_s": math.inf, "throughput_bps": 1}, "must be finite"),
        ({"throughput_bps": math.nan}, "must be finite"),
        ({"throughput_bps": 10**400}, "must be finite"),
        ({"max_byte": 5}, "requirement 'max_byte' is not known; known: max_bytes"),
    ],
)
def test_impossible_requirements_are_refused(req, message):
    with pytest.raises(ValueError, match=r"must|needs|known") as error:
        Requirements.from_dict(req)
    assert message in str(error.value)


def test_requirements_round_trip_and_whole_floats_count_as_integers():
    req = Requirements.from_dict({"max_bytes": 5.0, "max_error": 0.2})
    assert req == Requirements(max_bytes=5, max_error=0.2)
    assert Requirements.from_dict(req.to_dict()) == req


def test_a_number_beyond_all_sense_is_refused():
    assert Requirements(throughput_bps=MOST).throughput_bps == MOST
    for value in (MOST + 1, 10**400, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be finite"):
            Requirements(throughput_bps=value)


def test_by_confidence_the_bound_counts_in_place_of_the_measurement():
    manifest = make_manifest([1000, 2000, 3000], [0.6, 0.3, 0.28])
    bounds = manifest.table.upper_bounds(0.95)
    asked = Requirements(max_error=0.31, confidence=0.95)
    assert bounds[1] > 0.31 > 0.3, "a thousand examples do not show that 0.3 is under 0.31"
    assert plan(manifest, Requirements(max_error=0.31)).configuration == "toy-1"
    made = plan(manifest, asked)
    assert made.configuration == "toy-2"
    assert (made.expected_error, made.error_bound) == (0.28, bounds[2])
    assert made.unmet == ("max_error",)
    assert f"toy-2, has with confidence an error of at most {bounds[2]:.6g}" in made.reasons[0]
    reached = plan(manifest, Requirements(max_error=0.35, confidence=0.95))
    assert (reached.configuration, reached.error_bound, reached.unmet) == ("toy-1", bounds[1], ())
    assert plan(manifest, Requirements(max_error=0.35)).error_bound is None


@given(problems(), st.sampled_from([0.5, 0.9, 0.999]))
@settings(max_examples=200)
def test_with_equal_examples_a_confidence_moves_only_what_max_error_asks_for(problem, confidence):
    manifest, asked, held = problem
    without = dataclasses.replace(asked, max_error=None)
    sure = plan(manifest, dataclasses.replace(without, confidence=confidence), held)
    plain = plan(manifest, without, held)
    # The bound grows with the errors, so the order of the configurations is the same.
    assert (sure.configuration, sure.missing) == (plain.configuration, plain.missing)
    strict = plan(manifest, dataclasses.replace(asked, confidence=confidence), held)
    if strict.configuration is not None and asked.max_error is not None and not strict.unmet:
        assert strict.expected_error <= strict.error_bound <= asked.max_error
        loose = plan(manifest, asked, held)
        assert loose.transfer_bytes <= strict.transfer_bytes


@pytest.mark.parametrize("confidence", [95, 0.4, 1, 1.0, -0.5, math.nan])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match="confidence="):
        Requirements(confidence=confidence)
