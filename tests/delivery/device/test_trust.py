"""What an endpoint, a web server or whoever is between may try with a device that pinned a key.

One test an attack of those that The Update Framework lists and that apply here: each against our
endpoint and against a plain web server. Whatever is refused, the model in use stays in use.
"""

import contextlib
import dataclasses
import json
import shutil

import pytest

from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.errors import TransportError, TrustError
from accordion_jax.delivery.trust.documents import RELEASE_NAME, TrustFile
from accordion_jax.delivery.trust.envelope import Envelope, Signature
from accordion_jax.delivery.trust.statements import MAX_VERSION, text_of
from tests.delivery.checks import assert_sound, in_use
from tests.delivery.live import serving
from tests.delivery.signing import (
    DAY,
    NOW,
    Line,
    make_keys,
    public,
    release_of,
    with_payload,
    with_signatures,
)
from tests.delivery.toys import MODEL, make_parts
from tests.delivery.webserver import plain_web_server


class Endpoint:
    """Our endpoint, and somebody in between who can answer for its releases."""

    def __init__(self, folder):
        self.folder = folder
        self.sent = None  # in place of a release file
        self.requests = []
        self._app = make_app(BundleStore(str(folder), refresh_s=0))

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.requests.append(scope["path"])
            if self.sent is not None:
                # An attacker does not care which line was asked for.
                scope = scope | {"query_string": b""}
                if scope["path"].endswith("/release"):
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": self.sent})
                    return
        await self._app(scope, receive, send)


class Site:
    """Somewhere that offers one model at a time, at a URL that names none."""

    def __init__(self, kind, folder, url, endpoint):
        self.kind, self.folder, self.endpoint = kind, folder, endpoint
        self.url = url if kind == "endpoint" else f"{url}/current/manifest.json"

    def offer(self, bundle, release=None):
        """Offers a bundle as it is, or with another release file (bytes; none where empty)."""
        for path in self.folder.iterdir():
            shutil.rmtree(path)
        name = bundle.name if self.kind == "endpoint" else "current"
        shutil.copytree(bundle, self.folder / name)
        self.endpoint.sent = None
        if release == b"":
            (self.folder / name / RELEASE_NAME).unlink(missing_ok=True)
        elif release is not None:
            content = release if isinstance(release, bytes) else release.to_bytes()
            (self.folder / name / RELEASE_NAME).write_bytes(content)
            self.endpoint.sent = content
        if release is not None:
            write_front(self.folder / name, read_manifest(self.folder / name))


@contextlib.contextmanager
def offering(kind, folder):
    folder.mkdir()
    endpoint = Endpoint(folder)
    with serving(endpoint) if kind == "endpoint" else plain_web_server(folder) as url:
        yield Site(kind, folder, url, endpoint)


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


def test_without_a_pinned_key_nothing_is_asked(site, start, versions):
    old, new = versions
    for bundle, release in ((new, None), (old, b"no release at all"), (new, b"")):
        site.offer(bundle, release)
        device = start()
        assert device.upgrade().configuration == "toy-2"
        assert device.manifest.model_id == bundle.name
    assert not any(path.endswith("/release") for path in site.endpoint.requests)
    assert not (device.cache.folder / "trust").exists()


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


def test_freeze_of_the_trust_file(site, own, refused, tmp_path, versions, line, start):
    old, _ = versions
    line.rotate(line.keys, expires=NOW + DAY)
    own(line.sign(old, now=NOW))
    refused(old, "the trust file of line 'toy' expired at", "rotate it", now=NOW + DAY)
    line.rotate(line.keys, expires=NOW + 9 * DAY)
    site.offer(line.sign(old))
    assert start(NOW + DAY).outcome().problems == ()


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


def test_arbitrary_software_under_a_trust_file_of_the_same_name(
    site, own, refused, versions, tmp_path
):
    old, new = versions
    own(old)
    attacker = Line.start(tmp_path)
    site.offer(attacker.sign(new, version=2), release_of(new))
    refused(old, "has another version 1 of the trust file of line 'toy'")


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


def test_an_endpoint_that_has_no_release_of_the_model(start, tmp_path, line, versions):
    _, new = versions
    with offering("endpoint", tmp_path / "unsigned") as site:
        site.offer(new, b"")
        with pytest.raises(TransportError, match="no model here has a release of line 'toy'"):
            start(url=site.url, trust=line.trust)
        with pytest.raises(TrustError, match=r"comes with no signed release .*answered 404"):
            start(url=site.url, connect={"model_id": new.name})


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
