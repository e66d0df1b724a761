"""What is signed: a root says whose keys count for a line, a release which model is its version n.

Both are small JSON objects in an envelope. The names follow The Update Framework (TUF): a root is
replaced only by the next one, which the keys of both must sign; a release takes the place of its
targets, snapshot and timestamp, since one digest, the ``model_id``, covers all of a bundle.
"""

import dataclasses
import datetime
import re
from typing import Any

from accordion_jax.delivery.bundle.manifest import canonical_json, is_digest
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust import ed25519
from accordion_jax.delivery.trust.envelope import Envelope, checked, parsed

ROOT_TYPE = "application/vnd.accordion.root.v1+json"
RELEASE_TYPE = "application/vnd.accordion.release.v1+json"
MAX_KEYS = 16
MAX_VERSION = 2**53 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_MOMENT_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def is_line(text: Any) -> bool:
    """Whether this can be the name of a line."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def is_version(value: Any) -> bool:
    """Whether this can be the version of a root or a release."""
    return type(value) is int and 1 <= value <= MAX_VERSION


def is_moment(value: Any) -> bool:
    """Whether this is a moment as a statement has it."""
    if not (isinstance(value, str) and _MOMENT.fullmatch(value)):
        return False
    try:
        moment_of(value)
    except ValueError:  # the 31st of February
        return False
    return True


def moment_of(text: str) -> datetime.datetime:
    """Returns the moment that an RFC 3339 text in UTC says: ``2027-01-31T00:00:00Z``."""
    return datetime.datetime.strptime(text, _MOMENT_FORMAT).replace(tzinfo=datetime.UTC)


def text_of(moment: datetime.datetime) -> str:
    """Returns a moment as a statement has it; parts of seconds are dropped."""
    return moment.astimezone(datetime.UTC).strftime(_MOMENT_FORMAT)


def is_over(expires: str | None, now: datetime.datetime) -> bool:
    """Whether a statement that expires then is no longer good; None never expires."""
    return expires is not None and now >= moment_of(expires)


LINE = (is_line, "a name of at most 100 of A-Z a-z 0-9 . _ -, the first a letter or digit")
VERSION = (is_version, "a whole number from 1 to 2^53 - 1")
EXPIRES = (
    lambda v: v is None or is_moment(v),
    "null, or a moment in UTC such as '2027-01-31T00:00:00Z'",
)
_KEYS = (
    lambda v: (
        isinstance(v, list)
        and 1 <= len(v) <= MAX_KEYS
        and all(map(ed25519.is_public, v))
        and len(set(v)) == len(v)
    ),
    f"1 to {MAX_KEYS} public keys of 64 hexadecimal digits in lower case, each once",
)


@dataclasses.dataclass(frozen=True)
class Root:
    """Whose signatures count for a line of models.

    Attributes:
      line: name of what is released again and again.
      version: of the root; the next one has one more.
      keys: public keys, in hexadecimal.
      threshold: how many of them must sign a release, and the next root.
      floor: a device that takes this root forgets which version of the line it saw last, and takes
        releases from this version on; None forgets nothing. It undoes what a stolen key did.
      expires: when nothing more is taken under this root; None: never.
      require_expiry: whether a release without an expiry is refused.
    """

    line: str
    version: int
    keys: tuple[str, ...]
    threshold: int
    floor: int | None = None
    expires: str | None = None
    require_expiry: bool = False

    def to_envelope(self) -> Envelope:
        """Returns the envelope, not signed yet."""
        return Envelope(ROOT_TYPE, canonical_json(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Release:
    """That a model is a version of a line.

    Attributes:
      line: name of the line.
      version: of the model within its line; rises.
      model_id: of the bundle, and so all of its manifest and its weights.
      expires: when it may no longer be offered as new; None: never.
    """

    line: str
    version: int
    model_id: str
    expires: str | None = None

    def to_envelope(self) -> Envelope:
        """Returns the envelope, not signed yet."""
        return Envelope(RELEASE_TYPE, canonical_json(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class SignedRoot:
    """A root as it was read, with its envelope."""

    root: Root
    envelope: Envelope

    @classmethod
    def from_dict(cls, document: Any, source: str) -> "SignedRoot":
        """Reads a root, and checks no signature.

        Raises:
          TrustError: it is none; names the source and the value.
        """
        envelope = Envelope.from_dict(document, ROOT_TYPE, source)
        fields = checked(
            parsed(envelope.payload, source, len(envelope.payload)),
            {
                "line": LINE,
                "version": VERSION,
                "keys": _KEYS,
                "threshold": VERSION,
                "floor": (lambda v: v is None or is_version(v), f"null, or {VERSION[1]}"),
                "expires": EXPIRES,
                "require_expiry": (lambda v: isinstance(v, bool), "true or false"),
            },
            source,
        )
        root = Root(**(fields | {"keys": tuple(fields["keys"])}))
        if root.threshold > len(root.keys):
            raise TrustError(
                f"{source} has threshold={root.threshold} and {len(root.keys)} keys; wanted at "
                "most as many signatures as there are keys"
            )
        return cls(root, envelope)

    def missing_signatures(self, before: "SignedRoot | None") -> list[str]:
        """Returns what is missing for it to count, in words.

        Args:
          before: the root that it replaces; None for the first.
        """
        missing = []
        counted = [("its own keys", self.root)]
        if before is not None:
            counted.append(("the keys before", before.root))
        for whose, root in counted:
            found = len(self.envelope.signers(root.keys))
            if found < root.threshold:
                missing.append(f"{found} of {whose} signed it, wanted {root.threshold}")
        return missing


@dataclasses.dataclass(frozen=True)
class SignedRelease:
    """A release as it was read, with its envelope."""

    release: Release
    envelope: Envelope

    @classmethod
    def from_dict(cls, document: Any, source: str) -> "SignedRelease":
        """Reads a release, and checks no signature.

        Raises:
          TrustError: it is none; names the source and the value.
        """
        envelope = Envelope.from_dict(document, RELEASE_TYPE, source)
        fields = checked(
            parsed(envelope.payload, source, len(envelope.payload)),
            {
                "line": LINE,
                "version": VERSION,
                "model_id": (
                    lambda v: isinstance(v, str) and is_digest(v),
                    "64 hexadecimal digits in lower case",
                ),
                "expires": EXPIRES,
            },
            source,
        )
        return cls(Release(**fields), envelope)

    def check(self, root: Root, *, model_id: str, now: datetime.datetime, source: str) -> None:
        """Does nothing if the root's keys vouch for it now, and for this model.

        Raises:
          TrustError: it is of another line or model, too few keys signed it, it or the root has
            expired, or it lacks an expiry that the root demands; says which.
        """
        release = self.release
        if release.line != root.line:
            raise TrustError(
                f"{source} is a release of line {release.line!r}; the pinned line is {root.line!r}"
            )
        if release.model_id != model_id:
            raise TrustError(
                f"{source} is a release of model {release.model_id}; the model that came with it "
                f"is {model_id}"
            )
        found = len(self.envelope.signers(root.keys))
        if found < root.threshold:
            raise TrustError(
                f"{source} is signed by {found} of the keys that count for line {root.line!r} "
                f"(version {root.version} of its trust file); wanted {root.threshold}"
            )
        for what, expires, remedy in (
            (f"the trust file of line {root.line!r}", root.expires, "rotate it"),
            (source, release.expires, "sign the bundle again, with a later expiry"),
        ):
            if is_over(expires, now):
                raise TrustError(
                    f"{what} expired at {expires}, and this device's clock says {text_of(now)}: "
                    f"either an old one is offered as new, or whoever answers for it must {remedy}"
                )
        if root.require_expiry and release.expires is None:
            raise TrustError(
                f"{source} has no expiry, which the trust file of line {root.line!r} demands"
            )
