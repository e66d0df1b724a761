"""A line of versions, a site that offers them, and a device that pinned the key of the line.

Whatever a test offers, each does it against our endpoint and against a plain web server.
"""

import shutil

import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import TransportError, TrustError
from tests.delivery.checks import assert_sound, in_use
from tests.delivery.offers import offering
from tests.delivery.signing import NOW, Line
from tests.delivery.toys import make_parts


@pytest.fixture(params=["endpoint", "static"])
def site(request, tmp_path):
    with offering(request.param, tmp_path / "site") as site:
        yield site


@pytest.fixture
def line(tmp_path):
    return Line.start(tmp_path)


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory):
    """Bundles, the second of which follows the first."""
    folder = tmp_path_factory.mktemp("unsigned")
    old = write_bundle(folder, **make_parts(blocks=2))
    new = write_bundle(folder, **make_parts(blocks=2, seed=1), follows=old.name)
    return old, new


@pytest.fixture
def versions(tmp_path, line, unsigned):
    """The same, signed as version 1 and 2 of one line."""
    old, new = (shutil.copytree(each, tmp_path / "bundles" / each.name) for each in unsigned)
    return line.sign(old), line.sign(new)


@pytest.fixture
def start(make_device, site):
    """Makes a device as a new process would, and connects it."""

    def start(now=NOW, connect=None, **kwargs):
        device = make_device(kwargs.pop("url", site.url), **kwargs)
        device.pins.now = lambda: now
        device.connect(**(connect or {}))
        return device

    return start


@pytest.fixture
def own(start, line, site):
    """Gets a model that the pinned key vouches for onto the device."""

    def own(bundle, **kwargs):
        site.offer(bundle)
        device = start(trust=line.trust, **kwargs)
        assert device.upgrade().configuration == "toy-2"
        assert device.manifest.model_id == bundle.name
        device.close()
        return bundle

    return own


@pytest.fixture
def refused(start, line, site):
    """Sees that an offer is refused in these words, and that the model in use stays."""

    def refused(kept, *words, now=NOW, fresh=True):
        device = start(now)
        said = "\n".join(device.outcome().problems)
        assert all(each in said for each in words), said
        assert "going on with the manifest kept from the last time" in said
        assert (device.manifest.model_id, in_use(device)) == (kept.name, "toy-2")
        assert device.newer is None
        assert device.upgrade().configuration == "toy-2"
        assert device.step_down(depth=1).name == "toy-1"
        assert [path.stem for path in (device.cache.folder / "manifests").iterdir()] == [kept.name]
        assert_sound(device)
        device.close()
        offline = start(now, connect={"offline": True})
        assert (offline.manifest.model_id, in_use(offline)) == (kept.name, "toy-2")
        offline.close()
        # A device that holds nothing takes nothing.
        if fresh:
            with pytest.raises((TrustError, TransportError)) as raised:
                start(now, folder="fresh", trust=line.trust)
            assert all(each in str(raised.value) for each in words), raised.value

    return refused
