"""That a picture needs Matplotlib is said before the work, and nothing else needs it."""

import sys

import pytest

from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.links import picture


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch, tmp_path):
    picture.check_that_pictures_can_be_drawn()
    # As where it is not installed: its name leads to nothing.
    monkeypatch.setattr(picture.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DeliveryError, match="pip install matplotlib"):
        picture.draw_picture(tmp_path / "p.png", None, (), title="")
    assert list(tmp_path.iterdir()) == []
