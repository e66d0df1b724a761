"""Runtimes for the tests of running models."""

import pytest

from accordion_jax.delivery.runtimes.runtime import Runtime


@pytest.fixture
def running():
    """Makes runtimes, and closes them."""
    made = []

    def make(device, **kwargs):
        made.append(Runtime(device, **kwargs))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()
