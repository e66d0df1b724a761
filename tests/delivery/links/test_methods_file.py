"""Methods read from JSON files; what is damaged is refused in words."""

import json

import pytest

from accordion_jax.delivery.links.methods_file import read_rivals, read_rungs

POINTS = [{"bytes": 10, "error": 0.5}, {"bytes": 30, "error": 0.6}, {"bytes": 20, "error": 0.4}]
TABLE = {
    "rows": [
        {"name": "a", "rival": True, "points": POINTS},
        {"name": "b", "rival": False, "points": POINTS},
    ]
}


@pytest.fixture
def write(tmp_path):
    def write(document):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(document))
        return path

    return write


def test_a_row_is_a_method_and_the_best_of_what_is_there_is_used(write):
    (method,) = read_rivals(write(TABLE))
    assert (method.name, method.round_trips) == ("a", 1)
    assert method.sizes_bytes == (10, 20, 30)
    assert method.errors == (0.5, 0.4, 0.4)


def test_rungs_may_cost_bytes_and_trips_before_the_first(write):
    document = {"rungs": POINTS[:1], "round_trips": 2, "overhead_bytes": 100}
    method = read_rungs(write(document))
    assert (method.name, method.sizes_bytes, method.round_trips) == ("Accordion", (110,), 2)


def test_rungs_may_be_a_row_of_a_table(write):
    assert read_rungs(write(TABLE), "b").errors == (0.5, 0.4, 0.4)
    with pytest.raises(ValueError, match=r"no row 'c'; it has \['a', 'b'\]"):
        read_rungs(write(TABLE), "c")


@pytest.mark.parametrize(
    "points",
    [
        None,
        [],
        {},
        [1],
        [{"bytes": 1}],
        [{"bytes": -1, "error": 0.5}],
        [{"bytes": 1.5, "error": 0.5}],
        [{"bytes": 1, "error": 1.5}],
        [{"bytes": 1, "error": True}],
        [{"bytes": 1, "error": "0.5"}],
    ],
    ids=repr,
)
def test_points_that_are_none_are_refused_by_name(points, write):
    with pytest.raises(ValueError, match="'a' has the point"):
        read_rivals(write({"rows": [{"name": "a", "rival": True, "points": points}]}))
    with pytest.raises(ValueError, match="'Accordion' has the point"):
        read_rungs(write({"rungs": points}))


@pytest.mark.parametrize("rows", [None, {}, [1]], ids=repr)
def test_a_table_without_rows_is_refused(rows, write):
    with pytest.raises(ValueError, match="no list of rows"):
        read_rivals(write({"rows": rows, "more": 1}))


def test_a_table_without_rivals_is_refused(write):
    with pytest.raises(ValueError, match="no row that is a rival"):
        read_rivals(write({"rows": TABLE["rows"][1:]}))


@pytest.mark.parametrize("name", ["round_trips", "overhead_bytes"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True], ids=repr)
def test_numbers_that_are_none_are_refused_by_name(name, value, write):
    with pytest.raises(ValueError, match=rf"{name}=.* must be a whole number"):
        read_rungs(write({"rungs": POINTS, name: value}))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist"):
        read_rivals(tmp_path / "nowhere.json")
