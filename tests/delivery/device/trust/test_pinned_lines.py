"""Which line a device asks for at an address, and what a pin says of models that are held."""

import shutil

import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import TransportError, TrustError
from tests.delivery.checks import in_use
from tests.delivery.offers import offering
from tests.delivery.signing import (
    DAY,
    NOW,
    Line,
    release_of,
)
from tests.delivery.toys import make_parts


def test_without_a_pinned_key_nothing_is_asked(site, start, versions):
    old, new = versions
    for bundle, release in ((new, None), (old, b"no release at all"), (new, b"")):
        site.offer(bundle, release)
        device = start()
        assert device.upgrade().configuration == "toy-2"
        assert device.manifest.model_id == bundle.name
    assert not any(path.endswith("/release") for path in site.endpoint.requests)
    assert not (device.cache.folder / "trust").exists()


def test_wrong_software(site, own, refused, start, versions, tmp_path):
    old, _ = versions
    own(old)
    other = Line.start(tmp_path, name="other")
    bundle = other.sign(write_bundle(tmp_path / "o", **make_parts(blocks=2, seed=7)), version=5)
    # Valid, and pinned too: but at another address.
    site.offer(bundle)
    with offering(site.kind, tmp_path / "second") as second:
        second.offer(bundle)
        device = start(url=second.url, trust=other.trust)
        assert device.manifest.model_id == bundle.name
        device.upgrade()
        device.close()
        shutil.rmtree(device.cache.folder / "manifests")
        (device.cache.folder / "manifests").mkdir()
        own(old)
        site.offer(bundle, release_of(bundle))
        refused(old, "is a release of line 'other'; the pinned line is 'toy'")


def test_an_address_of_its_own_for_each_of_several_lines(own, start, versions, line, tmp_path):
    old, _ = versions
    own(old)
    other = Line.start(tmp_path, name="other")
    bundle = other.sign(write_bundle(tmp_path / "o", **make_parts(blocks=2, seed=7)))
    with offering("endpoint", tmp_path / "second") as second:
        second.offer(bundle)
        # One line is pinned, and this is none of it.
        with pytest.raises(TransportError, match="no model here has a release of line 'toy'"):
            start(url=second.url)
        assert start(url=second.url, trust=other.trust).manifest.model_id == bundle.name
        with pytest.raises(TrustError, match="has pinned other, toy; pin the one that it must"):
            start(url=second.url.replace("127.0.0.1", "localhost"))


def test_the_endpoint_answers_with_the_line_that_is_asked_for(tmp_path, start, line, versions):
    _, new = versions
    other = Line.start(tmp_path, name="other")
    with offering("endpoint", tmp_path / "both") as both:
        both.offer(new)
        first = start(url=both.url, folder="first", trust=line.trust)
        assert first.manifest.model_id == new.name
        later = other.sign(write_bundle(tmp_path / "o", **make_parts(blocks=2, seed=7)))
        shutil.copytree(later, both.folder / later.name)
        assert start(url=both.url, folder="none").manifest.model_id == later.name
        assert start(url=both.url, folder="first").manifest.model_id == new.name
        second = start(url=both.url, folder="second", trust=other.trust)
        assert second.manifest.model_id == later.name


def test_an_endpoint_that_has_no_release_of_the_model(start, tmp_path, line, versions):
    _, new = versions
    with offering("endpoint", tmp_path / "unsigned") as site:
        site.offer(new, b"")
        with pytest.raises(TransportError, match="no model here has a release of line 'toy'"):
            start(url=site.url, trust=line.trust)
        with pytest.raises(TrustError, match=r"comes with no signed release .*answered 404"):
            start(url=site.url, connect={"model_id": new.name})


def test_a_model_from_before_the_pin_counts_once_it_is_vouched_for(site, start, versions, line):
    _, new = versions
    site.offer(new, b"")
    device = start()
    assert device.upgrade().configuration == "toy-2"
    device.close()
    # Nobody has vouched for it: from the pin on it is not used.
    with pytest.raises(TrustError, match="was fetched before a key was pinned"):
        start(trust=line.trust, connect={"offline": True})
    with pytest.raises((TrustError, TransportError), match=r"signed release|has a release of line"):
        start()
    # The same model, now signed: nothing is sent again.
    line.sign(new)
    site.offer(new)
    device = start()
    assert (in_use(device), device.manifest.model_id) == ("toy-2", new.name)
    assert device.upgrade().transferred_bytes == 0
    device.close()
    assert start(connect={"offline": True}).manifest.model_id == new.name


def test_a_release_is_asked_for_where_a_key_is_pinned_also_if_the_model_is_kept(
    site, own, start, versions, line
):
    """Else a server that says that nothing is new could go on for ever, and hide a rotation."""
    old, _ = versions
    own(line.sign(old, expires=NOW + DAY))
    if site.kind == "endpoint":
        site.endpoint.requests.clear()
        start().close()
        assert site.endpoint.requests == ["/v1/models/latest/front"]
    # What is kept warns of its own; this is of what was asked for.
    said = start(NOW + 2 * DAY).outcome().problems[-1]
    assert "expired at" in said
    assert "whoever answers for it must sign the bundle again" in said


def test_the_newer_version_that_was_vouched_for_and_never_came(site, own, start, versions):
    """It was seen, so nothing older is taken; what is in use stays until it is there."""
    old, new = versions
    own(old)
    site.offer(new)
    device = start()
    assert device.newer.model_id == new.name
    device.close()
    site.offer(old)
    device = start()
    assert "an older model is offered as new" in device.outcome().problems[0]
    assert (device.manifest.model_id, in_use(device)) == (old.name, "toy-2")
