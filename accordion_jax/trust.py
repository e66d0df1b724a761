"""Keys, and who may answer for a model: signs bundles, so that a device takes no others.

  python -m accordion_jax.trust key NAME.pem                  a key pair: NAME.pem and NAME.pem.pub
  python -m accordion_jax.trust create --line=NAME --keys=NAME.pem --out=trust.json
                                                              whose signatures count for a line
  python -m accordion_jax.trust sign BUNDLE --trust=trust.json --keys=NAME.pem
                                                              this bundle is the line's next version
  python -m accordion_jax.trust verify BUNDLE --trust=trust.json
                                                              every digest, and the signatures
  python -m accordion_jax.trust rotate --trust=trust.json --keys=NEW.pem --old_keys=NAME.pem
                                                              from now on the new key counts
  python -m accordion_jax.trust cosign --trust=trust.json --keys=OTHER.pem
                                                              another signature, for a threshold
  python -m accordion_jax.trust show trust.json               what a trust file or a bundle says
  python -m accordion_jax.trust pins --cache=CACHE            what a device has pinned and seen
  python -m accordion_jax.trust unpin --cache=CACHE --line=NAME
                                                              a device forgets the line

A device pins the trust file with `python -m accordion_jax.fetch URL --trust=trust.json`.
"""

import datetime
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from accordion_jax.delivery.bundle.reading import verify_bundle
from accordion_jax.delivery.errors import DeliveryError, TrustError
from accordion_jax.delivery.trust import ed25519, issuing
from accordion_jax.delivery.trust.documents import ReleaseFile, TrustFile
from accordion_jax.delivery.trust.pins import Pins, utc_now
from accordion_jax.delivery.trust.statements import Release, Root, is_moment, moment_of
from accordion_jax.system import command
from accordion_jax.system.files import write_whole
from accordion_jax.system.numbers import WholeNumber

_TRUST = flags.DEFINE_string("trust", None, "Trust file of the line.")
_KEYS = flags.DEFINE_list("keys", [], "Files of private keys to sign with, with commas between.")
_OLD_KEYS = flags.DEFINE_list(
    "old_keys", [], "rotate: files of private keys that counted until now, and sign the change."
)
_PUBLIC_KEYS = flags.DEFINE_list(
    "public_keys", [], "create, rotate: files of public keys that count too, of other people say."
)
_THRESHOLD = flags.DEFINE(
    WholeNumber(1), "threshold", None, "create, rotate: how many keys must sign; 1, or as before."
)
_LINE = flags.DEFINE_string("line", None, "create, unpin: name of the line of models.")
_OUT = flags.DEFINE_string(
    "out", None, "create: file to write; rotate and cosign change --trust without it."
)
_VERSION = flags.DEFINE(
    WholeNumber(1), "release_version", None, "sign: version in the line; the next one by default."
)
_EXPIRES = flags.DEFINE_string(
    "expires",
    None,
    "create, rotate, sign: when it ends, 2027-01-31 or 2027-01-31T12:00:00Z (UTC), or 30d from "
    "now; never by default.",
)
_REQUIRE_EXPIRY = flags.DEFINE_bool(
    "require_expiry", None, "create, rotate: whether each release must have an expiry."
)
_FLOOR = flags.DEFINE(
    WholeNumber(1),
    "floor",
    None,
    "rotate: devices forget which version they saw last, and take releases from this one on.",
)
_PASSPHRASE_FILE = flags.DEFINE_string(
    "passphrase_file", None, "File whose first line is the passphrase of the private keys."
)
_PASSPHRASE_ENV = flags.DEFINE_string(
    "passphrase_env", None, "Environment variable with the passphrase of the private keys."
)
_CACHE = flags.DEFINE_string("cache", "~/.cache/accordion_jax", "pins, unpin: a device's cache.")


def main(argv: Sequence[str]) -> None:
    """Does what the first word says, and prints what came of it."""
    actions: dict[str, tuple[Callable[..., None], str | None]] = {
        "key": (_key, "one file to write the private key to"),
        "create": (_create, None),
        "rotate": (_rotate, None),
        "cosign": (_cosign, None),
        "sign": (_sign, "one folder of a bundle"),
        "verify": (_verify, "one folder of a bundle"),
        "show": (_show, "one trust file, or folder of a bundle"),
        "pins": (_pins, None),
        "unpin": (_unpin, None),
    }
    name = argv[1] if len(argv) > 1 else None
    if name not in actions:
        raise app.UsageError(f"wanted one of {', '.join(actions)}; got {name}")
    action, wanted = actions[name]
    if len(argv) - 2 != (wanted is not None):
        raise app.UsageError(f"{name} takes {wanted or 'flags alone'}; got {list(argv[2:])}")
    action(*argv[2:])


def _key(path: str) -> None:
    public, public_path = ed25519.make_pair(path, _passphrase())
    print(f"private   {path}, for you alone; keep a copy in a safe place")
    print(f"public    {public_path}")
    print(f"key       {public}")


def _create() -> None:
    out = pathlib.Path(_given(_OUT))
    if out.exists():
        raise FileExistsError(f"{out} is there already; rotate it, or name another file")
    privates = _privates(_KEYS.value)
    root = issuing.make_root(
        _given(_LINE),
        [*map(ed25519.public_of, privates), *map(ed25519.read_public, _PUBLIC_KEYS.value)],
        threshold=_THRESHOLD.value or 1,
        floor=_FLOOR.value,
        expires=_moment(),
        require_expiry=bool(_REQUIRE_EXPIRY.value),
    )
    _write(issuing.sign_root(issuing.add_root(None, root), privates), out)


def _rotate() -> None:
    trust = TrustFile.read(_given(_TRUST))
    trust.verify(_given(_TRUST))
    before = trust.latest
    privates = _privates(_KEYS.value)
    root = issuing.make_root(
        before.line,
        [*map(ed25519.public_of, privates), *map(ed25519.read_public, _PUBLIC_KEYS.value)],
        threshold=before.threshold if _THRESHOLD.value is None else _THRESHOLD.value,
        floor=_FLOOR.value,
        expires=_moment(),
        require_expiry=(
            before.require_expiry if _REQUIRE_EXPIRY.value is None else _REQUIRE_EXPIRY.value
        ),
        follows=before,
    )
    signers = [*privates, *_privates(_OLD_KEYS.value)]
    _write(issuing.sign_root(issuing.add_root(trust, root), signers), _out())


def _cosign() -> None:
    trust = TrustFile.read(_given(_TRUST))
    _write(issuing.sign_root(trust, _privates(_KEYS.value)), _out())


def _sign(bundle: str) -> None:
    trust = TrustFile.read(_given(_TRUST))
    document, count = issuing.sign_bundle(
        bundle,
        trust,
        _privates(_KEYS.value),
        version=_VERSION.value,
        expires=_moment(),
        now=utc_now(),
    )
    for line in _described(document.signed.release):
        print(line)
    lacking = trust.latest.threshold - count
    more = f"; {lacking} more must sign it (the same command)" if lacking > 0 else ""
    print(f"signed    by {count} of {trust.latest.threshold} keys that are wanted{more}")


def _verify(bundle: str) -> None:
    trust = TrustFile.read(_given(_TRUST))
    trust.verify(_given(_TRUST))
    manifest = verify_bundle(bundle)
    document = ReleaseFile.read(bundle)
    document.signed.check(
        trust.latest, model_id=manifest.model_id, now=utc_now(), source=f"that of {bundle}"
    )
    for line in _described(document.signed.release):
        print(line)
    print(f"verified  {len(manifest.segments)} segments, and the signatures of {_given(_TRUST)}")


def _show(path: str) -> None:
    if pathlib.Path(path).is_dir():
        document = ReleaseFile.read(path)
        for line in _described(document.signed.release):
            print(line)
        keys = document.signed.envelope.signers(document.trust.latest.keys)
        print(f"signed    by {len(keys)} of its own keys, {document.trust.latest.threshold} wanted")
        print("          (whether these keys are the right ones, verify --trust=FILE tells)")
        return
    trust = TrustFile.read(path)
    for each in trust.roots:
        _show_root(each.root)
    for words in issuing.missing(trust):
        print(f"missing   {words}")


def _pins() -> None:
    pins = _pins_of()
    for line, pinned in pins.lines().items() if pins.is_pinned else ():
        _show_root(pinned.trust.latest)
        print(f"at least  version {pinned.at_least} of {line}")
        for model_id, each in pinned.accepted.items():
            print(f"accepted  version {each.version}, model {model_id}")
    if not pins.is_pinned:
        print("no key is pinned")


def _unpin() -> None:
    _pins_of().unpin(_given(_LINE))
    print(f"unpinned  {_given(_LINE)}")


def _pins_of() -> Pins:
    return Pins(pathlib.Path(_CACHE.value).expanduser())


def _out() -> pathlib.Path:
    return pathlib.Path(_OUT.value or _given(_TRUST))


def _write(trust: TrustFile, out: pathlib.Path) -> None:
    lacking = issuing.missing(trust)
    write_whole(out, trust.to_bytes())
    print(f"trust     {out}")
    _show_root(trust.latest)
    for words in lacking:
        print(f"missing   {words}: let them sign it with cosign before it is used")


def _show_root(root: Root) -> None:
    ends = f", expires {root.expires}" if root.expires else ""
    print(f"line      {root.line}, version {root.version} of its keys{ends}")
    print(f"keys      {root.threshold} of these must sign:")
    for key in root.keys:
        print(f"          {key}")
    if root.require_expiry:
        print("          each release must have an expiry")
    if root.floor:
        print(f"floor     releases from version {root.floor} on")


def _described(release: Release) -> list[str]:
    return [
        f"model_id  {release.model_id}",
        f"release   version {release.version} of line {release.line}, "
        f"expires {release.expires or 'never'}",
    ]


def _privates(paths: Sequence[str]) -> list[Any]:
    passphrase = _passphrase()
    return [ed25519.read_private(path, passphrase) for path in paths]


def _passphrase() -> bytes | None:
    if _PASSPHRASE_FILE.value and _PASSPHRASE_ENV.value:
        raise app.UsageError("give --passphrase_file or --passphrase_env, not both")
    if _PASSPHRASE_FILE.value:
        lines = pathlib.Path(_PASSPHRASE_FILE.value).read_bytes().splitlines()
        if not lines or not lines[0]:
            raise TrustError(f"{_PASSPHRASE_FILE.value} has no passphrase in its first line")
        return lines[0]
    if _PASSPHRASE_ENV.value:
        text = os.environ.get(_PASSPHRASE_ENV.value)
        if not text:
            raise TrustError(f"the environment has no passphrase in {_PASSPHRASE_ENV.value}")
        return text.encode()
    return None


def _moment() -> datetime.datetime | None:
    text = _EXPIRES.value
    if text is None:
        return None
    if text.endswith("d") and text[:-1].isdecimal() and 0 < int(text[:-1]) <= 36_500:
        return utc_now() + datetime.timedelta(days=int(text[:-1]))
    whole = f"{text}T00:00:00Z" if len(text) == 10 else text
    if not is_moment(whole):
        raise app.UsageError(
            f"--expires={text} is no moment; wanted 2027-01-31, 2027-01-31T12:00:00Z or 30d"
        )
    return moment_of(whole)


def _given(flag: flags.FlagHolder) -> str:
    if not flag.value:
        raise app.UsageError(f"give --{flag.name}")
    return flag.value


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError,), argv=argv)


if __name__ == "__main__":
    run()
