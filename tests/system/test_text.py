import pytest

from accordion_jax.system.text import printable, short, without_secrets


def test_control_characters_are_shown_and_do_not_act():
    assert printable("a\x1b[2J\x07\r\n\u202eb") == r"a\x1b[2J\x07\r\n\u202eb"
    assert printable("Größe … 1 %") == "Größe … 1 %"


def test_a_value_is_cut_to_what_a_person_reads():
    assert short("x") == "'x'"
    assert len(short("x" * 1000)) == 120
    assert short("x" * 1000, 20).endswith("...")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://me:word@host/b?sig=SECRET", "https://host/b"),
        ("s3://KEY:SECRET@bucket/b#x", "s3://bucket/b"),
        ("bundles='http://h/b?sig=SECRET' cannot: 404, http://u@h/b?x", None),
        ("/srv/bundles?x", "/srv/bundles?x"),
        ("what? nothing@all", "what? nothing@all"),
    ],
)
def test_secrets_of_urls_are_left_out(given, shown):
    shown = shown or "bundles='http://h/b' cannot: 404, http://h/b"
    assert without_secrets(given) == shown
