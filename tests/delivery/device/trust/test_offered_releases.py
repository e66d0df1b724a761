"""Attacks on what a key vouches for, one test an attack that The Update Framework lists.

Whatever is refused, the model in use stays in use.
"""

import dataclasses
import json

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust.envelope import Envelope
from accordion_jax.delivery.trust.statements import text_of
from tests.delivery.signing import (
    DAY,
    NOW,
    make_keys,
    release_of,
    with_payload,
    with_signatures,
)
from tests.delivery.toys import MODEL, make_parts


def test_what_the_key_vouches_for_is_taken_version_after_version(site, start, own, versions, line):
    old, new = versions
    own(old)
    site.offer(new)
    # It is pinned for good: the trust file need not be named again.
    device = start()
    assert device.newer.model_id == new.name
    assert device.upgrade().configuration == "toy-2"
    assert (device.manifest.model_id, device.outcome().problems) == (new.name, ())
    found = device.pins.accepted(new.name, site.url)
    assert (found.line, found.version, found.expires) == ("toy", 2, None)
    # A higher version with none between is as good.
    later = write_bundle(old.parent, **make_parts(blocks=2, seed=2))
    site.offer(line.sign(later, version=9))
    assert start().newer.model_id == later.name


def test_rollback(site, own, refused, versions):
    old, new = versions
    own(new)
    site.offer(old)
    refused(
        new,
        "of version 1 of line 'toy'",
        "has seen, or its trust file demands, version 2",
        fresh=False,
    )


def test_rollback_by_naming_the_older_model(site, start, own, versions):
    old, new = versions
    own(new)
    site.offer(old)
    if site.kind == "static":
        pytest.skip("there the URL names the model")
    with pytest.raises(TrustError, match="an older model is offered as new"):
        start(connect={"model_id": old.name})
    assert start().manifest.model_id == new.name


def test_indefinite_freeze(site, start, own, refused, line, versions):
    old, _ = versions
    own(line.sign(old, expires=NOW + DAY))
    assert start(NOW + DAY / 2).outcome().problems == ()
    until = text_of(NOW + DAY)
    refused(old, f"expired at {until}", "this device's clock says", now=NOW + DAY)
    # With no network it is used too, and says so.
    device = start(NOW + DAY, connect={"offline": True})
    assert f"expired at {until}" in device.outcome().problems[0]
    assert "a newer release is due" in device.outcome().problems[0]
    # The same model is signed anew: all is well again.
    site.offer(line.sign(old, expires=NOW + 9 * DAY))
    assert "going on with" not in "\n".join(start(NOW + 2 * DAY).outcome().problems)
    assert start(NOW + 2 * DAY).outcome().problems == ()


def test_freeze_by_a_release_from_before_there_were_expiries(site, own, refused, line, versions):
    old, new = versions
    forever = release_of(new)
    line.rotate(line.keys, require_expiry=True)
    own(line.sign(old, expires=NOW + DAY))
    again = dataclasses.replace(forever, trust=line.trust)
    site.offer(new, again)
    refused(old, "has no expiry, which the trust file of line 'toy' demands")


def test_mix_and_match(site, own, refused, versions):
    old, new = versions
    own(old)
    site.offer(write_bundle(old.parent, **make_parts(blocks=2, seed=5)), release_of(new))
    refused(old, f"is a release of model {new.name}; the model that came with it is")


def changed(parts, change):
    if change == "another normalisation":
        return parts | {"model": MODEL | {"input": {"kind": "images", "mean": [9.0]}}}
    if change == "another runtime":
        return parts | {"model": MODEL | {"runtime": "something else"}}
    # An extraneous dependency: a segment that nobody needs to have signed.
    more = make_parts(blocks=3)
    return {**parts, **{key: more[key] for key in ("segments", "ladder", "table")}}


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ("another normalisation", "no release"),
        ("another normalisation", "its own key"),
        ("another normalisation", "the right release"),
        ("another runtime", "the right release"),
        ("extraneous dependencies", "the right release"),
    ],
)
def test_a_manifest_of_somebody_else(site, own, refused, versions, line, tmp_path, change, how):
    old, _ = versions
    own(old)
    other = write_bundle(tmp_path / "other", **changed(make_parts(blocks=2), change))
    release, words = {
        "no release": (b"", "pinned keys of line 'toy'" if site.kind == "static" else "line 'toy'"),
        "its own key": (
            line.forged(other, 2, keys=make_keys(tmp_path, 1)),
            "is signed by 0 of the keys that count for line 'toy'",
        ),
        "the right release": (release_of(old), "is a release of model"),
    }[how]
    site.offer(other, release)
    if how == "no release" and site.kind == "endpoint":
        # Our endpoint does not even offer it where a line is asked for.
        site.endpoint.sent = b"{}"
        words = "wanted format, format_version, release, roots"
    refused(old, words)


@pytest.mark.parametrize("what", ["signatures", "file"])
def test_a_stripped_signature(site, own, refused, versions, what):
    old, new = versions
    own(old)
    if what == "signatures":
        site.offer(new, with_signatures(release_of(new), []))
        refused(old, "signed by 0 of the keys that count")
    else:
        site.offer(new, b"")
        if site.kind == "endpoint":
            # Asked for the latest of the line, ours has none; asked for this one, no release.
            site.endpoint.sent = b""
        refused(old, "not JSON" if site.kind == "endpoint" else "comes with no signed release")


@pytest.mark.parametrize("what", ["version", "expires", "model_id", "line", "spaces"])
def test_a_tampered_statement(site, own, refused, versions, line, what):
    old, new = versions
    own(line.sign(old, expires=NOW + DAY))
    document = release_of(old) if what in ("version", "expires") else release_of(new)
    payload = json.loads(document.signed.envelope.payload)
    other = {"version": 99, "expires": text_of(NOW + 99 * DAY), "model_id": new.name}
    content = json.dumps(payload | ({what: other[what]} if what in other else {})).encode()
    site.offer(old if what in ("version", "expires") else new, with_payload(document, content))
    refused(old, "is signed by 0 of the keys that count")


def test_a_signature_of_something_else(site, own, refused, versions, line):
    """The type is signed with the text: what was signed as a root is no release."""
    old, new = versions
    own(old)
    release = line.forged(new, 2)
    payload = release.signed.envelope.payload
    as_root = Envelope("application/vnd.accordion.root.v1+json", payload).signed_by(line.keys)
    site.offer(new, with_signatures(release, as_root.signatures))
    refused(old, "is signed by 0 of the keys that count")
    document = json.loads(release.to_bytes())
    document["release"] = as_root.to_dict()
    site.offer(new, json.dumps(document).encode())
    refused(old, "payloadType='application/vnd.accordion.root.v1+json'", fresh=False)


def test_two_models_as_one_version(site, own, refused, versions, line):
    old, new = versions
    own(old)
    site.offer(new, line.forged(new, 1))
    refused(old, f"has seen model {old.name} as that version", fresh=False)


def test_a_release_that_expired_before_it_came(site, own, refused, versions, line):
    """Replay of what was signed once: the newer statement of the same version had a later end."""
    old, _ = versions
    own(line.sign(old, expires=NOW + DAY))
    before = release_of(old)
    own(line.sign(old, expires=NOW + 9 * DAY))
    site.offer(old, before)
    refused(old, "expired at", now=NOW + 2 * DAY)


def test_endless_data(site, own, refused, versions):
    old, new = versions
    own(old)
    site.offer(new, b'{"format": "' + b"x" * (2 << 20) + b'"}')
    refused(old, "answers more than 524288 bytes; that is no release")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 100_000, b"null", b'{"format": NaN}', b"{}" * 2, b'{"a": 1, "a": 1}'],
    ids=["bytes", "nested", "null", "NaN", "two", "twice"],
)
def test_what_is_no_release(site, own, refused, versions, content):
    old, new = versions
    own(old)
    site.offer(new, content)
    refused(old, "the release that http")


def test_the_manifest_of_a_pinned_line_needs_its_own_content(site, own, refused, versions):
    """Its id is the digest of all: one byte elsewhere and it is no manifest."""
    old, new = versions
    own(old)
    site.offer(new)
    name = new.name if site.kind == "endpoint" else "current"
    path = site.folder / name / "manifest.json"
    document = json.loads(path.read_bytes())
    document["provenance"]["run"] = "another"
    path.write_text(json.dumps(document))
    if site.kind == "static":
        refused(old, "it was changed after it was written", fresh=False)
    assert read_manifest(new).model_id == new.name
