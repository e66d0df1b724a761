"""Pictures: the curves' numbers, and files that are whole or not there."""

import dataclasses

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row
from accordion_jax.evaluation import Curve, average_seeds, draw_error_vs_size

LADDER = make_ladder("coml", (1, 1))
BASE, BLOCKS = UnitCost(1000, 4400, 1), (UnitCost(2000, 8400, 1), UnitCost(8000, 33_000, 1))


def table_of(*errors, examples=100, seed=0, ladder=LADDER):
    rows = tuple(
        make_row(
            ladder,
            each,
            base=BASE,
            blocks=BLOCKS,
            examples=examples,
            errors=count,
            cross_entropy=1.0,
        )
        for each, count in zip(ladder, errors, strict=True)
    )
    return LookupTable(rows, {"seed": seed})


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


# Curves --------------------------------------------------------------------------------------


def test_one_run_is_drawn_with_its_interval():
    table = table_of(80, 30, 10)
    curve = average_seeds("mine", [table])
    assert (curve.label, curve.band) == ("mine", "95 % interval")
    np.testing.assert_array_equal(curve.error, [0.8, 0.3, 0.1])
    np.testing.assert_array_equal(curve.low, [row.error_low for row in table.rows])
    np.testing.assert_array_equal(curve.high, [row.error_high for row in table.rows])
    # Bytes times eight, base and batch-norm statistics included.
    np.testing.assert_allclose(curve.mbit, [0.0352, 0.1024, 0.3664])


def test_seeds_are_drawn_as_mean_and_deviation():
    tables = [table_of(80, 30, 10), table_of(84, 36, 10, seed=1), table_of(88, 42, 10, seed=2)]
    curve = average_seeds("mine", tables)
    assert curve.band == "± 1 s.d. of 3 seeds"
    np.testing.assert_allclose(curve.error, [0.84, 0.36, 0.1])
    # Of a sample: divided by n - 1.
    np.testing.assert_allclose(curve.high - curve.error, [0.04, 0.06, 0], atol=1e-12)
    np.testing.assert_allclose(curve.error - curve.low, [0.04, 0.06, 0], atol=1e-12)


def test_the_band_stays_an_error_rate():
    curve = average_seeds("mine", [table_of(100, 50, 0), table_of(90, 50, 6, seed=1)])
    assert curve.high[0] == 1
    assert curve.low[2] == 0


def test_the_papers_axis_counts_bits_a_parameter():
    curve = average_seeds("mine", [table_of(80, 30, 10)], bits_per_parameter=64)
    np.testing.assert_allclose(curve.mbit, np.array([1000, 3000, 11_000]) * 64 / 1e6)


def test_runs_with_other_configurations_are_not_averaged():
    other = table_of(80, 10, seed=1, ladder=LADDER.subset([0]))
    with pytest.raises(ValueError) as caught:
        average_seeds("mine", [table_of(80, 30, 10), other])
    message = str(caught.value)
    assert "mine" in message
    assert "['coml-0', 'coml-1', 'coml-2']" in message
    assert "['coml-0', 'coml-2']" in message
    assert "config.sweep.depths" in message


# Files ---------------------------------------------------------------------------------------


def test_a_picture_shows_the_curves(tmp_path, drawn):
    curves = [
        average_seeds("one", [table_of(80, 30, 10)]),
        average_seeds("two", [table_of(60, 40, 20), table_of(64, 44, 24, seed=1)]),
    ]
    path = draw_error_vs_size(
        curves, tmp_path / "deep" / "er" / "figure.png", title="On digits", axis="float32"
    )
    assert path == tmp_path / "deep" / "er" / "figure.png"
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 300
        colours = len(set(np.asarray(image.convert("RGB")).reshape(-1, 3).sum(1)))
    assert colours > 20, "an empty page"
    (figure,) = drawn
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata())]
    for line, curve in zip(lines, curves, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.mbit)
        np.testing.assert_array_equal(line.get_ydata(), 100 * curve.error)
    for band, curve in zip(axes.collections, curves, strict=True):
        edges = band.get_paths()[0].vertices[:, 1]
        assert edges.min() == 100 * curve.low.min()
        assert edges.max() == 100 * curve.high.max()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "one (95 % interval)",
        "two (± 1 s.d. of 2 seeds)",
    ]
    assert axes.get_xlabel() == "transmitted, Mbit (float32)"
    assert axes.get_ylabel() == "top-1 error, %"
    assert axes.get_title(loc="left") == "On digits"
    assert axes.get_ylim()[1] >= 100 * max(curve.high.max() for curve in curves) - 1e-9


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_ending_gives_the_format(tmp_path, ending, start):
    curve = average_seeds("one", [table_of(80, 30, 10)])
    path = draw_error_vs_size([curve], str(tmp_path / f"figure.{ending}"))
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_drawing_that_fails_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    curve = average_seeds("one", [table_of(80, 30, 10)])
    draw_error_vs_size([curve], path)
    before = path.read_bytes()

    def half(self, target, *args, **kwargs):
        target.write_bytes(b"half a pict")
        raise OSError("the disk is full")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", half)
    with pytest.raises(OSError, match="disk is full"):
        draw_error_vs_size([dataclasses.replace(curve, label="two")], path)
    assert path.read_bytes() == before


def test_a_new_picture_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "figure.png"
    first = draw_error_vs_size([average_seeds("one", [table_of(80, 30, 10)])], path).read_bytes()
    second = draw_error_vs_size([average_seeds("one", [table_of(90, 70, 50)])], path).read_bytes()
    assert first != second
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["figure", "figure.xyz"])
def test_a_picture_without_a_known_ending_is_refused(tmp_path, name):
    curve = average_seeds("one", [table_of(80, 30, 10)])
    with pytest.raises(ValueError, match=rf"{name} .*\.png"):
        draw_error_vs_size([curve], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_curves_without_errors_have_room_above(tmp_path):
    # Five seeds that make no error at all: an axis from 0 to 0 would be none.
    curve = average_seeds("one", [table_of(0, 0, 0), table_of(0, 0, 0, seed=1)])
    assert curve.high.max() == 0
    draw_error_vs_size([curve], tmp_path / "figure.png")


def test_many_points_are_drawn_small(tmp_path, drawn):
    ends = np.linspace(0.1, 1, 55)
    curve = Curve("one", ends, ends, ends, ends, "none")
    draw_error_vs_size([curve], tmp_path / "figure.png")
    assert drawn[0].axes[0].lines[0].get_marker() == "."
