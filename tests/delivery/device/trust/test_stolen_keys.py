"""Attacks on the keys of a line: theft, rotation, freezes, old trust files."""

import dataclasses
import shutil

import pytest

from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust.documents import TrustFile
from accordion_jax.delivery.trust.envelope import Signature
from accordion_jax.delivery.trust.statements import MAX_VERSION
from tests.delivery.signing import (
    DAY,
    NOW,
    Line,
    make_keys,
    public,
    release_of,
    with_signatures,
)
from tests.delivery.toys import make_parts


def test_freeze_of_the_trust_file(site, own, refused, tmp_path, versions, line, start):
    old, _ = versions
    line.rotate(line.keys, expires=NOW + DAY)
    own(line.sign(old, now=NOW))
    refused(old, "the trust file of line 'toy' expired at", "rotate it", now=NOW + DAY)
    line.rotate(line.keys, expires=NOW + 9 * DAY)
    site.offer(line.sign(old))
    assert start(NOW + DAY).outcome().problems == ()


def test_arbitrary_software_under_a_trust_file_of_the_same_name(
    site, own, refused, versions, tmp_path
):
    old, new = versions
    own(old)
    attacker = Line.start(tmp_path)
    site.offer(attacker.sign(new, version=2), release_of(new))
    refused(old, "has another version 1 of the trust file of line 'toy'")


def test_fast_forward_and_the_way_back(site, own, refused, start, versions, line, tmp_path):
    old, new = versions
    thief = list(line.keys)
    own(old)
    evil = write_bundle(tmp_path / "evil", **make_parts(blocks=2, seed=6))
    site.offer(evil, line.forged(evil, MAX_VERSION, keys=thief))
    device = start()
    assert device.upgrade().configuration == "toy-2"
    # It has the key, so it is taken; and then nothing honest is any more.
    assert device.manifest.model_id == evil.name
    device.close()
    site.offer(new)
    assert "an older model is offered as new" in start().outcome().problems[0]
    # A rotation without the stolen key, and from where to count.
    line.rotate(make_keys(tmp_path, 1), floor=2)
    site.offer(line.sign(new))
    device = start()
    assert (device.newer.model_id, device.outcome().problems) == (new.name, ())
    assert device.upgrade().configuration == "toy-2"
    device.close()
    assert start(connect={"offline": True}).manifest.model_id == new.name
    # The floor holds, also for a device that is new.
    site.offer(line.sign(old, version=1))
    assert "demands, version 2" in start().outcome().problems[0]
    with pytest.raises(TrustError, match="demands, version 2"):
        start(folder="fresh", trust=line.trust)


def test_a_stolen_key_is_worth_nothing_after_the_rotation(
    site, own, refused, versions, line, tmp_path
):
    old, new = versions
    thief = list(line.keys)
    own(old)
    stolen = line.forged(new, 9, keys=thief)
    line.rotate(make_keys(tmp_path, 1))
    own(line.sign(old))  # The rotation comes with the release.
    # With the old trust file, with the new one, and with one that claims to go on from it.
    for trust in (stolen.trust, line.trust):
        site.offer(new, dataclasses.replace(stolen, trust=trust))
        refused(old, "is signed by 0 of the keys that count for line 'toy' (version 2 of its trust")
        shutil.rmtree(site.folder.parent / "fresh")
    attacker = Line(thief, line.trust)
    attacker.rotate(thief, signers=thief)
    site.offer(new, dataclasses.replace(stolen, trust=attacker.trust))
    refused(old, "version 3 of the trust file of line 'toy' does not count: 0 of the keys before")


def test_a_rotation_that_was_followed_is_kept_though_its_release_is_refused(
    site, start, own, refused, versions, line, tmp_path
):
    old, new = versions
    own(old)
    thief = list(line.keys)
    line.rotate(make_keys(tmp_path, 1))
    site.offer(new, line.forged(new, 2, keys=thief))
    refused(old, "signed by 0 of the keys that count for line 'toy' (version 2 of")
    site.offer(new, release_of(new))
    refused(old, "signed by 0 of the keys that count for line 'toy' (version 2 of", fresh=False)


@pytest.mark.parametrize("whose", ["nobody", "the old key", "the new key", "another key"])
def test_a_rotation_needs_the_keys_before_and_its_own(
    site, own, refused, versions, line, tmp_path, whose
):
    old, new = versions
    own(old)
    keys = make_keys(tmp_path, 2)
    signers = {
        "nobody": [],
        "the old key": line.keys,
        "the new key": keys[:1],
        "another key": keys[1:],
    }[whose]
    attacker = Line(list(line.keys), line.trust)
    root = dataclasses.replace(line.trust.latest, version=2, keys=tuple(public(keys[:1])))
    signed = dataclasses.replace(
        line.trust.roots[0], root=root, envelope=root.to_envelope().signed_by(signers)
    )
    attacker.trust = TrustFile((*line.trust.roots, signed))
    site.offer(new, attacker.forged(new, 2, keys=keys[:1]))
    refused(old, "version 2 of the trust file of line 'toy' does not count: 0 of", fresh=False)


def test_roots_that_are_left_out(site, own, refused, versions, line, tmp_path):
    old, new = versions
    own(old)
    for _ in range(2):
        line.rotate(make_keys(tmp_path, 1))
    short = TrustFile(line.trust.roots[-1:])
    site.offer(new, dataclasses.replace(line.forged(new, 2), trust=short))
    refused(
        old, "begins with version 3 of the trust file", "those between are missing", fresh=False
    )
    # With all of them, two rotations are one request.
    site.offer(line.sign(new, version=2))
    own(new)


def test_an_older_trust_file_does_not_come_back(
    site, start, own, refused, versions, line, tmp_path
):
    old, new = versions
    first = line.trust
    own(old)
    stale = release_of(new)
    line.rotate(make_keys(tmp_path, 1))
    own(line.sign(old))
    site.offer(new, stale)
    refused(old, "(version 2 of its trust file)", fresh=False)
    # Nor by hand: a script may name the one of the beginning each time.
    site.offer(line.sign(new))
    assert start(trust=first).newer.model_id == new.name
    site.offer(new, stale)
    assert "(version 2 of its trust file)" in start(trust=first).outcome().problems[0]


def test_fewer_signatures_than_the_threshold(site, start, tmp_path, versions):
    old, new = versions
    line = Line.start(tmp_path, name="two", keys=3, threshold=2)
    site.offer(line.sign(old))
    assert start(trust=line.trust).upgrade().configuration == "toy-2"
    one = line.forged(new, 2, keys=line.keys[:1])
    signature = one.signed.envelope.signatures[0]
    # The same key again counts once, under its own name or another's.
    again = [
        signature,
        signature,
        Signature(public(line.keys)[1], signature.value),
        Signature(public(make_keys(tmp_path, 1))[0], signature.value),
    ]
    outsider = [signature, line.forged(new, 2, keys=make_keys(tmp_path, 1)).signed.envelope]
    for signatures in ([signature], again, [signature, outsider[1].signatures[0]]):
        site.offer(new, with_signatures(one, signatures))
        device = start()
        assert device.manifest.model_id == old.name
        assert device.newer is None
        assert "is signed by 1 of the keys" in device.outcome().problems[0]
        assert "wanted 2" in device.outcome().problems[0]
        device.close()
    site.offer(new, line.forged(new, 2, keys=line.keys[1:]))
    assert start().newer.model_id == new.name
