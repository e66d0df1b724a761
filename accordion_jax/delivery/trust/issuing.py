"""What whoever answers for a line does: makes its trust file, rotates its keys, signs bundles."""

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.manifest import is_digest
from accordion_jax.delivery.bundle.reading import verify_bundle
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust import ed25519
from accordion_jax.delivery.trust.documents import (
    MAX_ROOTS,
    RELEASE_NAME,
    ReleaseFile,
    TrustFile,
)
from accordion_jax.delivery.trust.envelope import MAX_SIGNATURES
from accordion_jax.delivery.trust.statements import (
    MAX_KEYS,
    Release,
    Root,
    SignedRelease,
    SignedRoot,
    is_line,
    is_over,
    is_version,
    text_of,
)
from accordion_jax.system.files import write_whole


def make_root(
    line: str,
    public: Sequence[str],
    *,
    threshold: int = 1,
    floor: int | None = None,
    expires: datetime.datetime | None = None,
    require_expiry: bool = False,
    follows: Root | None = None,
) -> SignedRoot:
    """Returns a root that nobody has signed yet.

    Args:
      line: name of the line.
      public: keys that count; each is taken once.
      threshold: how many of them must sign.
      floor: as `Root.floor`.
      expires: when it does.
      require_expiry: whether its releases must.
      follows: the root that it replaces; None for the first.

    Raises:
      TrustError: a value cannot be; names it and what was wanted.
    """
    root = Root(
        line=line,
        version=follows.version + 1 if follows else 1,
        keys=tuple(dict.fromkeys(public)),
        threshold=threshold,
        floor=floor,
        expires=text_of(expires) if expires else None,
        require_expiry=require_expiry,
    )
    if not 1 <= len(root.keys) <= MAX_KEYS:
        raise TrustError(f"{len(root.keys)} keys are given; wanted 1 to {MAX_KEYS}")
    for name, value, right, wanted in (
        ("line", line, is_line(line), "letters, digits, '.', '_' and '-', at most 100"),
        ("floor", floor, floor is None or is_version(floor), "1 or more"),
        ("threshold", threshold, 1 <= threshold <= len(root.keys), f"1 to {len(root.keys)} keys"),
    ):
        if not right:
            raise TrustError(f"{name}={value!r} is not possible; wanted {wanted}")
    return SignedRoot(root, root.to_envelope())


def add_root(trust: TrustFile | None, root: SignedRoot) -> TrustFile:
    """Returns the trust file with one more root; the oldest are left out beyond the limit."""
    return TrustFile(((*trust.roots, root) if trust else (root,))[-MAX_ROOTS:])


def sign_root(trust: TrustFile, privates: Sequence[Any]) -> TrustFile:
    """Returns the trust file with more signatures on its last root.

    Raises:
      TrustError: a key is neither of the last root nor of the one before; names it.
    """
    last = trust.roots[-1]
    counted = {*last.root.keys, *(trust.roots[-2].root.keys if len(trust.roots) > 1 else ())}
    _check_keys(privates, counted, last.root.line)
    signed = dataclasses.replace(last, envelope=last.envelope.signed_by(privates))
    return TrustFile((*trust.roots[:-1], signed))


def missing(trust: TrustFile) -> list[str]:
    """Returns the signatures that its last root lacks, in words; empty where it counts."""
    before = trust.roots[-2] if len(trust.roots) > 1 else None
    return trust.roots[-1].missing_signatures(before)


def sign_bundle(
    bundle: str | os.PathLike,
    trust: TrustFile,
    privates: Sequence[Any],
    *,
    version: int | None = None,
    expires: datetime.datetime | None = None,
    now: datetime.datetime,
) -> tuple[ReleaseFile, int]:
    """Checks all of a bundle, and signs that it is a version of the line.

    The statement is written beside the manifest, and replaces one that was there, in the bundle's
    front too. With the same
    version and expiry the signatures that were there stay, so that several people can sign in turn.

    Args:
      bundle: its folder.
      trust: the trust file; its last root says whose signatures count.
      privates: keys to sign with.
      version: of the model in its line; None takes the one that it has, or one more than the
        highest of the line in the folder of bundles.
      expires: when it does; None takes the one that it has with the same version.
      now: what the clock says.

    Returns:
      The release file, and how many signatures count.

    Raises:
      FileNotFoundError, ManifestError, BundleError: the bundle is not sound, as `verify_bundle`.
      TrustError: a key does not count, the trust file is not sound or has expired, the version is
        not higher than that of another bundle beside it or of the one that it follows, or it is not
        given and that of the bundle's damaged release cannot be told.
    """
    trust.verify("the trust file")
    root = trust.latest
    if is_over(root.expires, now):
        raise TrustError(f"the trust file expired at {root.expires}; rotate it first")
    _check_keys(privates, set(root.keys), root.line)
    manifest = verify_bundle(bundle)
    bundle = pathlib.Path(bundle)
    others = {
        found.model_id: found.version
        for found in _releases(bundle.resolve().parent, root.line)
        if found.model_id != manifest.model_id
    }
    before = _own(bundle, manifest.model_id, root.line)
    if version is None and before is None and (why := _damage(bundle)):
        # As version 1 of the line again, devices would take it for an older model.
        raise TrustError(
            f"{why}; so which version this bundle was cannot be told: give it "
            "(--release_version=N), or delete that file if it was never served"
        )
    if version is None:
        version = before.release.version if before else max(others.values(), default=0) + 1
    if not is_version(version):
        raise TrustError(f"version={version} is not possible; wanted 1 or more")
    taken = next((other for other, its in others.items() if its == version), None)
    if taken:
        raise TrustError(f"version {version} of line {root.line!r} is bundle {taken} already")
    followed = others.get(manifest.follows or "", 0)
    if version <= followed:
        raise TrustError(
            f"version {version} is not higher than {followed}, that of bundle {manifest.follows}, "
            "which this one follows"
        )
    same = before is not None and before.release.version == version
    until = text_of(expires) if expires else None
    if until is None and before is not None and same:
        until = before.release.expires
    release = Release(root.line, version, manifest.model_id, until)
    if is_over(until, now):
        raise TrustError(
            f"the release would expire at {until}, which is over; give a later one (--expires=DATE)"
        )
    if root.require_expiry and until is None:
        raise TrustError(
            f"the trust file of line {root.line!r} demands an expiry; give one (--expires=DATE)"
        )
    envelope = before.envelope if before and before.release == release else release.to_envelope()
    # Those of keys that no longer count would only take room.
    kept = tuple(each for each in envelope.signatures if each.keyid in root.keys)
    envelope = dataclasses.replace(envelope, signatures=kept[:MAX_SIGNATURES])
    signed = SignedRelease(release, envelope.signed_by(privates))
    document = ReleaseFile(signed, trust)
    write_whole(bundle / RELEASE_NAME, document.to_bytes())
    write_front(bundle, manifest)
    return document, len(signed.envelope.signers(root.keys))


def _check_keys(privates: Sequence[Any], counted: set[str], line: str) -> None:
    for private in privates:
        if ed25519.public_of(private) not in counted:
            raise TrustError(
                f"key {ed25519.public_of(private)} does not count for line {line!r}; those that "
                f"do: {', '.join(sorted(counted))}"
            )


def _own(bundle: pathlib.Path, model_id: str, line: str) -> SignedRelease | None:
    """The release that a bundle has, if it can be read and is of this line."""
    try:
        found = ReleaseFile.read(bundle).signed
    except (OSError, TrustError):
        return None
    fits = found.release.model_id == model_id and found.release.line == line
    return found if fits else None


def _damage(bundle: pathlib.Path) -> str | None:
    """Why the release that a bundle has cannot be read; None if it can, or there is none."""
    try:
        ReleaseFile.read(bundle)
    except FileNotFoundError:
        return None
    except (OSError, TrustError) as error:
        return str(error)
    return None


def _releases(folder: pathlib.Path, line: str) -> Iterator[Release]:
    """Those of a line in a folder of bundles."""
    for path in sorted(folder.iterdir()):
        if is_digest(path.name):
            found = _own(path, path.name, line)
            if found:
                yield found.release
