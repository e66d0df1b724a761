import pytest

from accordion_jax.system.numbers import Number, WholeNumber


def test_whole_numbers_may_be_written_as_people_write_large_ones():
    parser = WholeNumber(0)
    assert [parser.parse(text) for text in ("7", "5e6", "1.0")] == [7, 5_000_000, 1]
    assert all(type(parser.parse(text)) is int for text in ("7", "5e6"))
    for text in ("1.5", "-1", "-1e3", "inf", "nan", "many"):
        with pytest.raises(ValueError):
            parser.parse(text)


def test_numbers_are_finite_and_within_their_bounds():
    assert Number(0, 1).parse("5e-1") == 0.5
    for text in ("nan", "inf", "-inf", "-0.1", "1.1", "some"):
        with pytest.raises(ValueError):
            Number(0, 1).parse(text)
