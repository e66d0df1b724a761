"""The look-up table: its numbers, its files, and what a reader asks of it."""

import csv
import dataclasses
import io
import json
import math
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accordion_jax.depth import (
    LookupTable,
    Policy,
    Row,
    UnitCost,
    make_ladder,
    make_row,
    wilson_interval,
)

BASE = UnitCost(parameters=100, size_bytes=440, macs=1000)
BLOCKS = tuple(UnitCost(10 * i, 48 * i, 700 + i) for i in range(1, 5))
LADDER = make_ladder("blockcoml", (2, 1, 1))


def row_of(size_bytes, errors, examples=1000, total=None, name=None):
    """A row whose costs are of no interest."""
    low, high = wilson_interval(errors, examples)
    return Row(
        configuration=name or f"c{size_bytes}",
        depth=size_bytes,
        stage_blocks=(size_bytes, 0),
        parameters=size_bytes // 4,
        size_bytes=size_bytes,
        mbit=size_bytes * 8 / 1e6,
        share_of_bytes=size_bytes / (total or size_bytes),
        share_of_blocks=size_bytes / (total or size_bytes),
        macs=size_bytes,
        examples=examples,
        errors=errors,
        top1_error=errors / examples,
        error_low=low,
        error_high=high,
        cross_entropy=errors / 3,
    )


def table_of(*errors, sizes=None):
    sizes = sizes or range(100, 100 * len(errors) + 1, 100)
    total = max(sizes)
    rows = (row_of(size, error, total=total) for size, error in zip(sizes, errors, strict=True))
    return LookupTable(tuple(rows), {"name": "test"})


@st.composite
def tables(draw):
    """Tables of any error curve, ties and rises included."""
    sizes = sorted(draw(st.sets(st.integers(1, 10**9), min_size=1, max_size=8)))
    errors = st.lists(st.integers(0, 12), min_size=len(sizes), max_size=len(sizes))
    rows = [
        dataclasses.replace(
            row_of(size, error, examples=12, total=sizes[-1]),
            cross_entropy=draw(st.floats(0, 1e9)),
        )
        for size, error in zip(sizes, draw(errors), strict=True)
    ]
    text = st.text(max_size=5)
    return LookupTable(tuple(rows), draw(st.dictionaries(text, text | st.integers() | st.none())))


# Wilson's interval ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "examples", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3: z = 1.959964.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_the_published_values(errors, examples, low, high):
    assert wilson_interval(errors, examples) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_solves_its_equation(counts):
    errors, examples = counts
    rate = errors / examples
    low, high = wilson_interval(errors, examples)
    assert 0 <= low <= rate <= high <= 1
    for end in (low, high):
        # Its ends are the rates p from which the observed one is 1.96 standard deviations away.
        distance = (rate - end) ** 2
        assert distance == pytest.approx(1.959964**2 * end * (1 - end) / examples, rel=1e-5, abs=0)
    mirrored = wilson_interval(examples - errors, examples)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("errors", "examples"), [(-1, 5), (6, 5), (0, 0), (1, -1)])
def test_wilsons_interval_refuses_impossible_counts(errors, examples):
    with pytest.raises(ValueError, match=f"errors={errors} of examples={examples}"):
        wilson_interval(errors, examples)


# Rows ----------------------------------------------------------------------------------------


def test_a_row_sums_the_base_and_the_kept_blocks():
    row = make_row(
        LADDER, LADDER[1], base=BASE, blocks=BLOCKS, examples=200, errors=50, cross_entropy=1.25
    )
    # blockcoml-1 of (2, 1, 1) keeps blocks 0, 2 and 3, which cost 1, 3 and 4 times ten parameters.
    assert (row.configuration, row.depth, row.stage_blocks) == ("blockcoml-1", 3, (1, 1, 1))
    assert row.parameters == 100 + 10 + 30 + 40
    assert row.size_bytes == 440 + 48 * 8
    assert row.macs == 1000 + 3 * 700 + 8
    assert row.mbit == row.size_bytes * 8 / 1e6
    assert row.share_of_bytes == (440 + 48 * 8) / (440 + 48 * 10)
    assert row.share_of_blocks == 3 / 4
    assert (row.examples, row.errors, row.top1_error) == (200, 50, 0.25)
    assert (row.error_low, row.error_high) == wilson_interval(50, 200)
    assert row.cross_entropy == 1.25


def test_the_shares_end_at_one():
    rows = [
        make_row(LADDER, each, base=BASE, blocks=BLOCKS, examples=1, errors=0, cross_entropy=0.0)
        for each in LADDER
    ]
    assert (rows[0].depth, rows[0].size_bytes, rows[0].macs) == (0, BASE.size_bytes, BASE.macs)
    assert rows[-1].share_of_bytes == rows[-1].share_of_blocks == 1
    assert LookupTable(tuple(rows), {}).full is rows[-1]


# Questions -----------------------------------------------------------------------------------


@given(tables())
def test_pareto_keeps_what_nothing_smaller_matches(table):
    kept = [
        row
        for row in table.rows
        if not any(
            other.top1_error <= row.top1_error and other.size_bytes < row.size_bytes
            for other in table.rows
        )
    ]
    assert list(table.pareto()) == kept


@given(tables(), st.floats(0, 1.1))
def test_at_a_share_of_bytes_is_the_best_that_fits(table, share):
    fits = [row for row in table.rows if row.share_of_bytes <= share]
    found = table.at_share_of_bytes(share)
    if not fits:
        assert found is None or found.share_of_bytes == pytest.approx(share, abs=1e-12)
        return
    assert found.top1_error == min(row.top1_error for row in fits)
    assert found in table.pareto(), "of equal errors, the smallest"


def test_a_share_that_a_row_has_exactly_fits():
    table = table_of(500, 400, 300, sizes=(10, 70, 100))
    assert table.at_share_of_bytes(0.7).size_bytes == 70
    assert table.at_share_of_bytes(0.6999).size_bytes == 10
    assert table.at_share_of_bytes(0.05) is None
    # 0.1 + 0.2 + 0.4 is a hair above 0.7, and 0.8 - 0.1 one below.
    assert table.at_share_of_bytes(0.1 + 0.2 + 0.4) is table.at_share_of_bytes(0.8 - 0.1)


def test_a_deeper_row_that_is_worse_is_not_chosen():
    table = table_of(300, 200, 250, 200)
    assert table.at_share_of_bytes(1).size_bytes == 200
    assert [row.size_bytes for row in table.pareto()] == [100, 200]


@given(tables(), st.floats(0, 1))
def test_smallest_reaching_is_the_first_that_is_good_enough(table, error):
    good = [row for row in table.rows if row.top1_error <= error]
    expected = min(good, key=lambda row: row.size_bytes, default=None)
    assert table.smallest_reaching(error) == expected


def test_rows_are_found_by_name():
    table = table_of(3, 2, 1)
    assert table.row("c200") is table.rows[1]
    assert len(table) == 3
    with pytest.raises(KeyError, match="'coml-9' in the table; it has c100, c200, c300"):
        table.row("coml-9")


@pytest.mark.parametrize("sizes", [(200, 100), (101, 100)])
def test_rows_must_not_shrink(sizes):
    rows = tuple(row_of(size, 1, name=f"row{i}") for i, size in enumerate(sizes))
    with pytest.raises(ValueError, match=f"'row0' has {sizes[0]}, the next, 'row1', {sizes[1]}"):
        LookupTable(rows, {})


def test_a_table_needs_a_row():
    with pytest.raises(ValueError, match="at least one row"):
        LookupTable((), {})


# Files ---------------------------------------------------------------------------------------


@given(tables())
def test_json_keeps_a_table_bit_for_bit(table):
    again = LookupTable.from_json(table.to_json())
    assert again == table
    assert again.to_json() == table.to_json()
    assert all(isinstance(row.stage_blocks, tuple) for row in again.rows)


def test_the_document_says_its_version():
    document = json.loads(table_of(1).to_json())
    assert document["schema_version"] == 1
    assert document["provenance"] == {"name": "test"}
    # Bits only where they are others than those of float32.
    assert list(document["rows"][0]) == FIELDS[:-1]


FIELDS = [field.name for field in dataclasses.fields(Row)]


def test_rows_of_fewer_bits_say_so():
    table = table_of(3, 2, 1)
    mixed = LookupTable(
        (*table.rows[:2], dataclasses.replace(table.rows[2], bits=4.5)), table.provenance
    )
    document = json.loads(mixed.to_json())
    assert [list(row) for row in document["rows"]] == [FIELDS[:-1], FIELDS[:-1], FIELDS]
    assert LookupTable.from_json(json.dumps(document)) == mixed
    read = list(csv.DictReader(io.StringIO(mixed.to_csv())))
    assert [row["bits"] for row in read] == ["32.0", "32.0", "4.5"]
    document["rows"][2]["bits"] = 0
    with pytest.raises(ValueError, match="bits=0; wanted more than 0"):
        LookupTable.from_json(json.dumps(document))


def edited(**fields):
    """The document of a table whose second row has other fields; None drops one."""
    document = json.loads(table_of(3, 2, 1).to_json())
    row = document["rows"][1] | fields
    document["rows"][1] = {name: value for name, value in row.items() if value is not None}
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "schema_version=None; this version reads 1"),
        ([], "schema_version=None"),
        (edited() | {"schema_version": 2}, "schema_version=2; this version reads 1"),
        (edited() | {"rows": {}}, "needs a list 'rows'"),
        (edited() | {"provenance": None}, "an object 'provenance'"),
        (edited() | {"rows": [7]}, "a row must be an object; got 7"),
        (edited() | {"rows": []}, "at least one row"),
        (edited(macs=None), "row 'c200' lacks 'macs'"),
        (edited(configuration=None), "row None lacks 'configuration'"),
        (edited(flops=1), "row 'c200' has the unknown field 'flops'"),
        (edited(size_bytes=200.0), r"'c200' has size_bytes=200\.0; wanted int"),
        (edited(errors="2"), "'c200' has errors='2'; wanted int"),
        (edited(depth=True), "'c200' has depth=True; wanted int"),
        (edited(configuration=5), "has configuration=5; wanted str"),
        (edited(mbit="0.1"), "'c200' has mbit='0.1'; wanted int or float"),
        (edited(stage_blocks="1/1"), "'c200' has stage_blocks='1/1'; wanted list"),
        (edited(stage_blocks=[1, "1"]), r"'c200' has stage_blocks=\[1, '1'\]; wanted list of int"),
        (edited(stage_blocks=[1, False]), r"'c200' has stage_blocks=\[1, False\]; wanted list"),
        (edited(size_bytes=50, mbit=4e-4), "'c100' has 100, the next, 'c200', 50"),
        (edited(top1_error=math.nan), "'c200' has top1_error=nan; wanted a finite number"),
        (edited(cross_entropy=math.inf), "'c200' has cross_entropy=inf; wanted a finite number"),
    ],
)
def test_a_bad_document_is_refused_and_the_field_named(document, message):
    with pytest.raises(ValueError, match=message):
        LookupTable.from_json(json.dumps(document), "runs/a/lookup_table.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"errors": 360, "examples": 1}, "'c200' has errors=360; wanted 0 to examples=1$"),
        ({"errors": -1}, "'c200' has errors=-1; wanted 0 to examples=1000"),
        ({"examples": 0, "errors": 0}, "'c200' has examples=0; wanted 1 or more"),
        ({"size_bytes": 10**400}, r"'c200' has size_bytes=10{400}; wanted less than 2\^63"),
        ({"top1_error": -(10**400)}, r"has top1_error=-10{400}; wanted less than 2\^63"),
        ({"stage_blocks": [2**63]}, "has stage_blocks=9223372036854775808; wanted less than"),
        ({"depth": -1}, "'c200' has depth=-1; wanted 0 or more"),
        ({"macs": -1}, "'c200' has macs=-1; wanted 0 or more"),
        ({"parameters": -1}, "'c200' has parameters=-1; wanted 0 or more"),
        ({"cross_entropy": -0.5}, "'c200' has cross_entropy=-0.5; wanted 0 or more"),
        ({"depth": 77}, r"has stage_blocks=\(200, 0\); wanted numbers of 0 or more .* depth=77"),
        ({"stage_blocks": [201, -1]}, r"has stage_blocks=\(201, -1\); wanted numbers of 0 or"),
        ({"share_of_bytes": 1.5}, "'c200' has share_of_bytes=1.5; wanted 0 to 1"),
        ({"share_of_blocks": -0.1}, "'c200' has share_of_blocks=-0.1; wanted 0 to 1"),
        ({"mbit": 0.0017}, "'c200' has mbit=0.0017; wanted 0.0016, of size_bytes=200"),
        ({"top1_error": 109}, "has top1_error=109; wanted 0.002, of errors=2 of examples=1000"),
        ({"top1_error": 0.0021}, "has top1_error=0.0021; wanted 0.002, of errors=2 of"),
        ({"error_low": 0.0}, r"has error_low=0.0; wanted 0\.000\d+, the lower end of the 95 %"),
        ({"error_high": 1.0}, r"has error_high=1.0; wanted 0\.007\d+, the upper end of the 95 %"),
        (
            {"share_of_bytes": 0.5},
            "has share_of_bytes=0.5 and size_bytes=200; by row 'c300' the full model has "
            "size_bytes=300",
        ),
        (
            {"depth": 300, "stage_blocks": [300, 0], "share_of_blocks": 0.9},
            "row 'c100' has share_of_blocks=0.3333333333333333 and depth=100; by row 'c200' the "
            "full model has depth=333.333",
        ),
    ],
)
def test_a_number_that_does_not_follow_from_the_others_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LookupTable.from_json(json.dumps(edited(**fields)))


def test_a_table_without_its_full_model_is_read():
    table = table_of(3, 2, 1)
    few = LookupTable(table.rows[:2], {})
    assert LookupTable.from_json(few.to_json()) == few
    base = LookupTable(
        (dataclasses.replace(table.rows[0], depth=0, stage_blocks=(), share_of_blocks=0.0),), {}
    )
    assert LookupTable.from_json(base.to_json()) == base


def test_a_document_nested_too_deep_is_refused():
    with pytest.raises(ValueError, match=r"^runs/a is not JSON"):
        LookupTable.from_json("[" * 200_000, "runs/a")


def test_errors_name_the_source():
    with pytest.raises(ValueError, match=r"^runs/a is not JSON: .*line 1"):
        LookupTable.from_json('{"rows": [', "runs/a")
    with pytest.raises(ValueError, match=r"^runs/a: row 'c200' lacks 'macs'"):
        LookupTable.from_json(json.dumps(edited(macs=None)), "runs/a")


def test_a_number_that_json_does_not_have_is_not_written():
    row = dataclasses.replace(row_of(100, 1), cross_entropy=math.nan)
    with pytest.raises(ValueError, match="row 'c100' has cross_entropy=nan; wanted a finite"):
        LookupTable((row,), {}).to_json()


@given(tables())
def test_the_csv_holds_the_same_rows(table):
    read = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(read) == len(table)
    for row, fields in zip(table.rows, read, strict=True):
        assert list(fields) == FIELDS[:-1]
        stage_blocks = tuple(int(part) for part in fields.pop("stage_blocks").split("/"))
        # Python writes a float so that reading it gives the same one.
        values = {name: type(getattr(row, name))(text) for name, text in fields.items()}
        assert Row(**values, stage_blocks=stage_blocks) == row


def test_written_files_are_read_again(tmp_path):
    table = table_of(3, 2, 1)
    folder = tmp_path / "runs" / "new"
    assert table.write(folder) == (folder / "lookup_table.json", folder / "lookup_table.csv")
    assert LookupTable.read(folder) == table
    assert LookupTable.read(str(folder / "lookup_table.json")) == table
    assert (folder / "lookup_table.csv").read_text() == table.to_csv()
    smaller = table_of(9)
    smaller.write(folder)
    assert LookupTable.read(folder) == smaller
    assert sorted(path.name for path in folder.iterdir()) == [
        "lookup_table.csv",
        "lookup_table.json",
    ]


def test_a_write_that_is_cut_off_leaves_the_old_table(tmp_path, monkeypatch):
    old = table_of(3, 2, 1)
    old.write(tmp_path)
    whole = pathlib.Path.write_bytes

    def half(self, content):
        whole(self, content[: len(content) // 2])
        raise OSError("the disk is full")

    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk is full"):
        table_of(1, 1, 1).write(tmp_path)
    assert LookupTable.read(tmp_path) == old
    assert (tmp_path / "lookup_table.csv").read_text() == old.to_csv()


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no look-up table at .*lookup_table\.json; a fin"):
        LookupTable.read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no look-up table at .*other\.json"):
        LookupTable.read(tmp_path / "other.json")


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "lookup_table.json"
    path.write_text("not a table")
    with pytest.raises(ValueError, match=f"^{path} is not JSON"):
        LookupTable.read(tmp_path)


def test_a_policys_expected_cost_comes_from_the_rows():
    table = table_of(3, 2, 1)
    policy = Policy((0.25, 0.25, 0.5))
    assert policy.expectation([row.size_bytes for row in table.rows]) == 225
