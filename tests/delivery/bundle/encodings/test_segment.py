import hashlib
import itertools
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accordion_jax.delivery.bundle.encodings import ENCODINGS, refinement, segment
from accordion_jax.delivery.bundle.encodings.chain import encode_chain
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.integers import LEVELS
from accordion_jax.delivery.bundle.encodings.scales import quantise
from accordion_jax.delivery.bundle.encodings.segment import (
    encode,
    encodings_for,
    read,
    refine,
    write,
    write_refinement,
)
from accordion_jax.delivery.errors import BundleError

BITS = sorted(LEVELS)
PAIRS = list(itertools.combinations(BITS, 2))
SHAPES = st.one_of(st.just(()), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))
NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0]), st.floats(-1024, 1024, width=32, allow_subnormal=True)
)
ARRAYS = st.lists(
    SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=NUMBERS)),
    min_size=1,
    max_size=4,
).map(lambda arrays: {f"unit/{i}": array for i, array in enumerate(arrays)})


def block(channels=16, seed=0):
    """Arrays like those of a block of a ResNet."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for i in (1, 2):
        sizes = np.exp(rng.normal(-2, 0.3, channels))
        kernel = rng.normal(size=(3, 3, channels, channels)) * sizes
        arrays[f"conv{i}/kernel"] = kernel.astype(np.float32)
        for name in ("scale", "bias", "mean", "var"):
            arrays[f"norm{i}/{name}"] = rng.uniform(0.1, 1, channels).astype(np.float32)
    return arrays


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        # -0 and 0 are equal, and are not the same.
        np.testing.assert_array_equal(np.signbit(found[name]), np.signbit(array))


def chain(arrays, *bits):
    return encode_chain(arrays, [encodings_for(arrays, b) for b in bits])


def follow(contents, layout):
    held = read(contents[0], layout)
    for content in contents[1:]:
        held = refine(held, content)
    return held


@given(arrays=ARRAYS, data=st.data())
def test_what_is_read_is_what_was_encoded(arrays, data):
    names = st.sampled_from(["float32", "float16", *(f"int{bits}" for bits in BITS)])
    encodings = {name: data.draw(names) for name in arrays}
    before = {name: array.copy() for name, array in arrays.items()}
    encoded = encode(arrays, encodings)
    held = read(write(encoded), Layout.of(arrays))
    assert_same(held.arrays(), encoded.arrays())
    assert_same(arrays, before)
    assert held.encodings == encodings
    for name, array in arrays.items():
        after = held.arrays()[name]
        assert (after.shape, after.dtype) == (array.shape, np.float32)
        if encodings[name] == "float32":
            np.testing.assert_array_equal(after, array)
        if encodings[name] == "float16":
            np.testing.assert_array_equal(after, array.astype(np.float16).astype(np.float32))


@given(arrays=ARRAYS, data=st.data(), zeros=st.sampled_from([0, 0.6, 0.95]))
def test_base_and_refinements_are_exactly_the_finest(arrays, data, zeros):
    rng = np.random.default_rng(len(arrays))
    arrays = {
        name: np.where(rng.random(array.shape) < zeros, np.float32(0), array)
        for name, array in arrays.items()
    }
    steps = data.draw(
        st.lists(st.sampled_from([*BITS, 16, 32]), min_size=2, max_size=4, unique=True)
    )
    contents = chain(arrays, *sorted(steps))
    held = follow(contents, Layout.of(arrays))
    alone = encode(arrays, encodings_for(arrays, max(steps)))
    assert_same(held.arrays(), alone.arrays())
    assert write(held) == write(alone)


@pytest.mark.parametrize(("coarse", "fine"), PAIRS)
@pytest.mark.parametrize("channels", [1, 3, 16, 33])
def test_every_number_of_bits_refines_to_every_larger_one(coarse, fine, channels):
    arrays = {"kernel": block(channels)["conv1/kernel"][..., :5, :]}
    contents = chain(arrays, coarse, fine)
    held = follow(contents, Layout.of(arrays))
    assert held.encodings == {"kernel": f"int{fine}"}
    assert_same(held.arrays(), encode(arrays, {"kernel": f"int{fine}"}).arrays())
    assert held.sha256 == hashlib.sha256(contents[-1]).hexdigest()


@pytest.mark.parametrize(("coarse", "fine"), PAIRS)
def test_a_base_and_its_refinement_cost_at_most_five_percent_more_than_both_at_once(coarse, fine):
    arrays = {name: array for name, array in block(32).items() if "norm" not in name}
    contents = chain(arrays, coarse, fine)
    alone = len(write(encode(arrays, encodings_for(arrays, fine))))
    assert sum(map(len, contents)) <= 1.05 * alone


@pytest.mark.parametrize("bits", [(4, 8), (5, 8), (3, 6)])
def test_zeros_cost_next_to_nothing_in_base_and_refinement(bits):
    arrays = {"kernel": block(64)["conv1/kernel"]}
    kept = np.random.default_rng(0).random(arrays["kernel"].shape) < 0.25
    sparse = {"kernel": np.where(kept, arrays["kernel"], np.float32(0))}
    contents = chain(sparse, *bits)
    assert contents[1][0] == 3
    held = follow(contents, Layout.of(sparse))
    alone = encode(sparse, encodings_for(sparse, bits[1]))
    assert_same(held.arrays(), alone.arrays())
    assert sum(map(len, contents)) < 1.05 * len(write(alone))
    # What is said of each weight that is not zero, and which these are.
    dense = chain(arrays, *bits)
    assert dense[1][0] == 2
    for step, at_most in enumerate((0.48, 0.43)):
        assert len(contents[step]) < at_most * len(dense[step])


@pytest.mark.parametrize(("coarse", "fine", "most"), [(4, 8, 1.02), (4, 6, 1.1), (2, 8, 1.01)])
def test_a_base_that_is_refined_is_hardly_worse_than_one_that_is_not(coarse, fine, most):
    kernel = {"kernel": block(64)["conv1/kernel"]}
    layout = Layout.of(kernel)

    def error(content):
        return np.mean((read(content, layout).arrays()["kernel"] - kernel["kernel"]) ** 2)

    assert error(chain(kernel, coarse, fine)[0]) < most * error(chain(kernel, coarse)[0])


def test_more_bits_are_nearer():
    kernel = {"kernel": block()["conv1/kernel"]}
    held = [read(chain(kernel, bits)[0], Layout.of(kernel)).arrays() for bits in BITS]
    errors = [np.mean((each["kernel"] - kernel["kernel"]) ** 2) for each in held]
    assert all(fine < 0.6 * coarse for coarse, fine in itertools.pairwise(errors))


def test_the_same_arrays_give_the_same_bytes_whatever_their_memory_order():
    arrays = block()
    fortran = {name: np.asfortranarray(array) for name, array in arrays.items()}
    assert chain(arrays, 2, 4, 8) == chain(fortran, 2, 4, 8)
    assert write(encode(arrays, encodings_for(arrays, 4))) == chain(arrays, 4)[0]


def test_what_a_block_takes():
    arrays = block()
    weights = 2 * 9 * 16 * 16
    beside = 1 + 10 + 2 * (4 + 16) + 8 * 2 * 16  # codes, scales, float16
    for bits in BITS:
        size = len(chain(arrays, bits)[0])
        assert size < beside + weights * bits / 8 + 10
    assert len(chain(arrays, 4)[0]) < beside + 0.95 * weights * 4 / 8
    assert len(chain(arrays, 32)[0]) == 1 + 10 + sum(array.nbytes for array in arrays.values())


def test_each_kind_of_array_gets_the_encoding_that_suits_it():
    arrays = {
        "kernel": np.full((2, 3), 0.5, np.float32),
        "bias": np.full(3, 0.5, np.float32),
        "large": np.full(3, 1e5, np.float32),
        "mean": np.zeros(3, np.float32),
        "var": np.ones(3, np.float32),
        "scalar": np.float32(0.5).reshape(()),
    }
    rest = {"mean": "zeros", "var": "ones"}
    assert encodings_for(arrays, 4) == rest | {
        "kernel": "int4", "bias": "float16", "large": "float32", "scalar": "float16"
    }  # fmt: skip
    assert set(encodings_for(arrays, 32).values()) == {"float32", "zeros", "ones"}
    assert encodings_for(arrays, 16)["kernel"] == "float16"
    for bits in (0, 9, 64):
        with pytest.raises(BundleError, match=f"no {bits} bits a weight; wanted 1 to 8"):
            encodings_for(arrays, bits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ["float32", "float16", "int1", "int8"])
def test_what_is_not_finite_is_refused(value, encoding):
    array = np.ones((2, 3), np.float32)
    array[1, 2] = value
    with pytest.raises(BundleError, match="'kernel' has a number that is not finite"):
        encode({"kernel": array}, {"kernel": encoding})


@pytest.mark.parametrize("dtype", [np.float64, np.int32, bool, object])
def test_other_numbers_are_refused(dtype):
    with pytest.raises(BundleError, match=f"'trees' has dtype {np.dtype(dtype)}; wanted float32"):
        encode({"trees": np.ones(2, dtype)}, {"trees": "float32"})


def test_an_encoding_that_cannot_hold_an_array_is_refused():
    for name, value, text in (
        ("zeros", 1.0, "not all of its numbers are 0"),
        ("float16", 1e5, "float16 holds up to 65504, not 100000; use float32"),
        ("int9", 1.0, "there are"),
    ):
        with pytest.raises(BundleError, match=rf"'bias'.*{name}.*{text}"):
            encode({"bias": np.full(2, value, np.float32)}, {"bias": name})


@pytest.fixture(scope="module", params=[2, 3], ids=["dense", "sparse"])
def refinable(request):
    """(layout, base in 4 bits, its refinement to 8), a refinement of each kind."""
    arrays, rng = block(), np.random.default_rng(0)
    if request.param == 3:
        arrays = {
            name: np.where(rng.random(x.shape) < 0.75, np.float32(0), x) if "kernel" in name else x
            for name, x in arrays.items()
        }
    base, refinement = chain(arrays, 4, 8)
    assert refinement[0] == request.param
    return Layout.of(arrays), base, refinement


def decoders(layout, base, refinement):
    """(content, what decodes it) of both."""
    held = read(base, layout)
    return (base, lambda c: read(c, layout)), (refinement, lambda c: refine(held, c))


def test_a_refinement_of_another_segment_is_refused(refinable):
    layout, base, refinement = refinable
    other = read(chain(block(seed=1), 4, 8)[0], layout)
    named = hashlib.sha256(base).hexdigest()[:16]
    with pytest.raises(BundleError, match=f"refines the segment {named}.*not the one that is held"):
        refine(other, refinement)
    held = refine(read(base, layout), refinement)
    with pytest.raises(BundleError, match="not the one that is held"):
        refine(held, refinement)  # a second time


def test_a_digest_that_the_caller_has_checked_is_not_found_again(refinable, monkeypatch):
    layout, *contents = refinable
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    wanted = follow(contents, layout)
    monkeypatch.setattr(segment.hashlib, "sha256", None)
    held = read(contents[0], layout, digests[0])
    fine = refine(held, contents[1], digests[1])
    assert [held.sha256, fine.sha256] == digests
    assert_same(fine.arrays(), wanted.arrays())


def test_a_refinement_finds_the_intervals_that_quantising_every_fine_level_gives():
    arrays = {"kernel": block(5)["conv1/kernel"]}
    for bits, more in PAIRS:
        fine = encode(arrays, encodings_for(arrays, more))
        coarse = encode(arrays, encodings_for(arrays, bits), fine).tensors["kernel"]
        fine = fine.tensors["kernel"]
        found = refinement.intervals(coarse, fine)
        rows, channels = fine.indices.shape
        for row, channel in itertools.product(range(0, rows, 7), range(channels)):
            level = int(coarse.indices[row, channel])
            every = (np.arange(fine.levels)[:, None] - np.float32((fine.levels - 1) / 2)) * (
                fine.scales[channel]
            )
            nearest = quantise(every.astype("f4"), coarse.scales[[channel]], coarse.levels)[:, 0]
            (choices,) = np.nonzero(nearest == level)
            below = level < coarse.levels // 2
            assert found.start[row, channel] == (choices[-1] if below else choices[0])
            assert found.width[row, channel] == len(choices)


def test_segment_and_refinement_are_not_mixed_up(refinable):
    layout, base, refinement = refinable
    with pytest.raises(BundleError, match=r"wanted b'.x01', encoded tensors"):
        read(refinement, layout)
    with pytest.raises(BundleError, match=r"wanted b'.x02' or b'.x03', a refinement"):
        refine(read(base, layout), base)


def test_tensors_that_are_not_made_of_each_other_are_no_base_and_refinement():
    arrays = block()
    coarse, fine = (encode(arrays, encodings_for(arrays, bits)) for bits in (2, 3))
    with pytest.raises(BundleError, match="not encoded with finer="):
        write_refinement(coarse, fine, "00" * 32)


def test_what_is_cut_or_longer_is_refused(refinable):
    layout, base, refinement = refinable
    held = read(base, layout)
    for content, decode in (
        (base, lambda c: read(c, layout)),
        (refinement, lambda c: refine(held, c)),
    ):
        for end in range(0, len(content), 7):
            with pytest.raises(BundleError):
                decode(content[:end])
        with pytest.raises(BundleError, match=r"only .* mean something"):
            decode(content + b"\x00")
        decode(content)


def test_a_device_that_refines_keeps_what_it_has_when_that_fails(refinable):
    layout, base, refinement = refinable
    held = read(base, layout)
    before = held.arrays()
    with pytest.raises(BundleError):
        refine(held, refinement[:-1])
    assert_same(held.arrays(), before)
    refine(held, refinement)
    assert_same(held.arrays(), before)


def test_another_layout_is_refused(refinable):
    layout, base, _ = refinable
    for shape in ((3, 3, 16, 17), (3, 3, 17, 16), (3, 3, 8, 16), (0,)):
        with pytest.raises(BundleError):
            read(base, Layout({**layout.shapes, "conv1/kernel": shape}))
    with pytest.raises(BundleError):
        read(base, Layout(dict(list(layout.shapes.items())[:-1])))


@given(data=st.data())
@settings(max_examples=300)
def test_damage_is_an_error_of_ours_or_gives_finite_arrays_of_the_layout(refinable, data):
    layout, base, refinement = refinable
    held = read(base, layout)
    for content, decode in (
        (base, lambda c: read(c, layout)),
        (refinement, lambda c: refine(held, c)),
    ):
        damaged = bytearray(content)
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
            damaged[at] = data.draw(st.integers(0, 255))
        assert_ours(decode, bytes(damaged), layout)


@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"\x01", b"\x02"]))
def test_any_bytes_are_an_error_of_ours_or_give_arrays_of_the_layout(refinable, data, start):
    layout, base, _ = refinable
    small = Layout({"kernel": (3, 2), "bias": (2,), "scalar": ()})
    assert_ours(lambda content: read(content, small), start + data, small)
    held = read(base, layout)
    named = bytes.fromhex(held.sha256)[:8]
    assert_ours(lambda content: refine(held, content), b"\x02" + named + data, layout)


def assert_ours(decode, content, layout):
    try:
        arrays = decode(content).arrays()
    except BundleError:
        return
    assert {name: array.shape for name, array in arrays.items()} == layout.shapes
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_hostile_segment_takes_no_more_memory_than_its_layout_says():
    layout = Layout({"kernel": (100, 100)})
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    swelling = coder.compress(bytes(64 << 20)) + coder.flush()
    head = np.float32(1).tobytes() + bytes(100)
    honest = chain({"kernel": np.random.default_rng(0).normal(size=(100, 100)).astype("f4")}, 4, 8)
    held = read(honest[0], layout)
    named = bytes.fromhex(held.sha256)[:8]
    most = 20 * layout.tensor_bytes + 4 * len(swelling)
    for decode, content in (
        (lambda c: read(c, layout), b"\x01\x08" + head + swelling),
        (lambda c: refine(held, c), b"\x02" + named + b"\x08" + head + swelling),
    ):
        tracemalloc.start()
        try:
            with pytest.raises(BundleError):
                decode(content)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < most < 8 << 20


def test_many_channels_of_one_weight_are_refined_in_bounded_memory():
    kernel = np.random.default_rng(0).normal(size=(1, 40_000)).astype(np.float32)
    layout = Layout.of({"kernel": kernel})
    contents = chain({"kernel": kernel}, 6, 8)
    tracemalloc.start()
    try:
        held = follow(contents, layout)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_same(held.arrays(), encode({"kernel": kernel}, {"kernel": "int8"}).arrays())
    assert peak < 30 * kernel.nbytes  # of a table of all intervals it would be 255


def test_a_layout_survives_json_and_what_is_none_is_refused():
    layout = Layout({"a/kernel": (3, 0, 2), "scalar": ()})
    assert Layout.from_json(layout.to_json()) == layout
    assert layout.tensor_bytes == 4
    for value, text in (
        ("layout", "is no layout"),
        ([["a", [1]], ["a", [2]]], "one name"),
        ([["a", [-1]]], "wanted at most 16 whole numbers"),
        ([["a", [1.0]]], "wanted at most 16 whole numbers"),
        ([["a", [True]]], "wanted at most 16 whole numbers"),
        ([["a", [1] * 17]], "wanted at most 16 whole numbers"),
        ([[1, [1]]], "wanted at most 16 whole numbers"),
        ([["a", [2**40, 2**40]]], "are more than"),
        ([[str(i), []] for i in range(5000)], "5000 tensors are more than 4096"),
    ):
        with pytest.raises(BundleError, match=text):
            Layout.from_json(value)


def test_codes_of_encodings_are_part_of_the_format():
    assert {name: encoding.code for name, encoding in ENCODINGS.items()} == {
        "zeros": 0, "int1": 1, "int2": 2, "int3": 3, "int4": 4, "int5": 5, "int6": 6, "int7": 7,
        "int8": 8, "ones": 9, "float16": 16, "float32": 32,
    }  # fmt: skip


def test_bytes_that_were_sent_once_are_read_for_ever():
    layout = Layout({"kernel": (4, 3), "bias": (2,)})
    base = read(bytes.fromhex("01041086c6fa3d010505003800c00263d08bab5f7f1f00"), layout)
    held = refine(
        base,
        bytes.fromhex("026363f2036897efd508100628dd3b00040402bbc80b0063656613e0106063620500"),
    )
    np.testing.assert_array_equal(held.arrays()["bias"], np.float32([0.5, -2]), strict=True)
    for tensors, indices, scales in (
        (
            base,
            [[0, 0, 1], [3, 4, 6], [7, 8, 10], [11, 13, 14]],
            [0.11725752800703049, 0.09860143810510635, 0.09860143810510635],
        ),
        (
            held,
            [[0, 1, 26], [63, 77, 102], [127, 152, 177], [190, 228, 253]],
            [0.006749155931174755, 0.005675341002643108, 0.005675341002643108],
        ),
    ):
        kernel = tensors.tensors["kernel"]
        np.testing.assert_array_equal(kernel.indices, indices)
        np.testing.assert_array_equal(kernel.scales, np.float32(scales))
        levels = np.array(indices) - (kernel.levels - 1) // 2
        np.testing.assert_array_equal(kernel.array(), np.float32(levels) * np.float32(scales))
