"""Lines of signed models for tests, and what an attacker makes of them."""

import dataclasses
import datetime
import shutil

import pytest

from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.trust import ed25519, issuing
from accordion_jax.delivery.trust.documents import RELEASE_NAME, ReleaseFile, TrustFile
from accordion_jax.delivery.trust.statements import Release, SignedRelease
from tests.commands import call_main

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


def make_keys(folder, count):
    """Private keys, made as the command makes them."""
    start = len(list(folder.glob("*.pem")))
    paths = [folder / f"{start + number}.pem" for number in range(count)]
    for path in paths:
        ed25519.make_pair(path)
    return [ed25519.read_private(path) for path in paths]


def public(keys):
    return [ed25519.public_of(key) for key in keys]


@dataclasses.dataclass
class Line:
    """Whoever answers for a line: its keys, and its trust file."""

    keys: list
    trust: TrustFile

    @classmethod
    def start(cls, folder, name="toy", keys=1, threshold=1, **kwargs):
        made = make_keys(folder, keys)
        root = issuing.make_root(name, public(made), threshold=threshold, **kwargs)
        return cls(made, issuing.sign_root(issuing.add_root(None, root), made))

    def rotate(self, keys, signers=None, **kwargs):
        """From now on `keys` count; the old and the new ones sign, if no others are given."""
        before = self.trust.latest
        root = issuing.make_root(before.line, public(keys), follows=before, **kwargs)
        chain = issuing.add_root(self.trust, root)
        self.trust = issuing.sign_root(chain, [*self.keys, *keys] if signers is None else signers)
        self.keys = list(keys)

    def sign(self, bundle, version=None, expires=None, keys=None, now=NOW):
        issuing.sign_bundle(
            bundle, self.trust, keys or self.keys, version=version, expires=expires, now=now
        )
        return bundle

    def forged(self, bundle, version, *, expires=None, line=None, keys=None, model_id=None):
        """A release file with whatever is asked for, signed by `keys`."""
        release = Release(
            line or self.trust.latest.line,
            version,
            model_id or read_manifest(bundle).model_id,
            expires,
        )
        envelope = release.to_envelope().signed_by(self.keys if keys is None else keys)
        return ReleaseFile(SignedRelease(release, envelope), self.trust)


def with_signatures(document, signatures):
    """A release file with other signatures on its release."""
    envelope = dataclasses.replace(document.signed.envelope, signatures=tuple(signatures))
    return dataclasses.replace(
        document, signed=dataclasses.replace(document.signed, envelope=envelope)
    )


def with_payload(document, payload):
    """A release file with another payload under the same signatures."""
    envelope = dataclasses.replace(document.signed.envelope, payload=payload)
    return dataclasses.replace(
        document, signed=dataclasses.replace(document.signed, envelope=envelope)
    )


def offer(folder, *bundles):
    """Makes a folder of bundles hold these and no others."""
    for path in folder.iterdir():
        shutil.rmtree(path)
    for bundle in bundles:
        shutil.copytree(bundle, folder / bundle.name)


def release_of(bundle):
    return ReleaseFile.read(bundle)


def write_release(bundle, document):
    content = document if isinstance(document, bytes) else document.to_bytes()
    (bundle / RELEASE_NAME).write_bytes(content)
    write_front(bundle, read_manifest(bundle))


@pytest.fixture
def trust(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        call_main("trust", *arguments)
        return capsys.readouterr().out

    return run
