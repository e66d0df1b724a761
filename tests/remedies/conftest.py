"""Fixtures of delivery, for what it tells people to do."""

from tests.delivery.conftest import make_device, toy_bundle

__all__ = ["make_device", "toy_bundle"]
