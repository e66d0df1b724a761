"""What a device has pinned and seen: roots of lines, and the highest version of each.

It is one file in the folder of the cache, ``trust/pins.json``, which carries its own digest. A
device that has pinned a key takes nothing that is not signed, from anywhere; if the file is damaged
or gone while its folder is there, it takes nothing at all. What was accepted before goes on.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from accordion_jax.delivery.bundle.manifest import canonical_json, digest, is_digest
from accordion_jax.delivery.errors import TrustError
from accordion_jax.delivery.trust.documents import (
    ReleaseFile,
    TrustFile,
    check_successor,
    read_bounded,
)
from accordion_jax.delivery.trust.envelope import checked, parsed
from accordion_jax.delivery.trust.statements import (
    EXPIRES,
    VERSION,
    is_over,
    text_of,
)
from accordion_jax.system.files import new_folder, write_whole
from accordion_jax.system.locks import locked

_MOST_BYTES = 64 << 20
_MOST_ACCEPTED = 256


@dataclasses.dataclass(frozen=True)
class Accepted:
    """A model that was accepted under a pinned key.

    Attributes:
      line: that it is of.
      version: of the model in its line.
      expires: when its release expires; None: never.
    """

    line: str
    version: int
    expires: str | None

    def overdue(self, now: datetime.datetime) -> str | None:
        """Returns a warning where the release has expired since; None where it has not."""
        if not is_over(self.expires, now):
            return None
        return (
            f"the release of version {self.version} of line {self.line!r} expired at "
            f"{self.expires}, and this device's clock says {text_of(now)}; the model stays in "
            "use, and a newer release is due"
        )


@dataclasses.dataclass(frozen=True)
class Pinned:
    """One line on a device.

    Attributes:
      trust: its roots, the last of which counts.
      at_least: the lowest version that is accepted.
      model_id: the one model that version `at_least` is; None if none was seen yet.
      accepted: by model_id, the last ones.
    """

    trust: TrustFile
    at_least: int = 1
    model_id: str | None = None
    accepted: Mapping[str, Accepted] = dataclasses.field(default_factory=dict)

    def with_root(self, trust: TrustFile, floor: int | None) -> "Pinned":
        """Returns it under a longer chain; a floor in its new roots replaces what was seen."""
        changed = dataclasses.replace(self, trust=trust)
        return dataclasses.replace(changed, at_least=floor, model_id=None) if floor else changed


def utc_now() -> datetime.datetime:
    """Returns what the machine's clock says."""
    return datetime.datetime.now(datetime.UTC)


class Pins:
    """The pinned lines of a device, shared by any number of processes.

    Args:
      folder: of the device's cache.
      now: the clock that expiries are held against.
    """

    def __init__(
        self, folder: str | os.PathLike, *, now: Callable[[], datetime.datetime] = utc_now
    ):
        self._path = pathlib.Path(folder) / "trust" / "pins.json"
        self._lock_path = pathlib.Path(folder) / "locks" / "trust.lock"
        self.now = now

    @property
    def is_pinned(self) -> bool:
        """Whether any key is pinned here, or was."""
        # A folder, since it is there with its file at once; a file in its place is damage.
        return os.path.lexists(self._path.parent)

    def lines(self) -> Mapping[str, Pinned]:
        """Returns what is pinned, by name of the line.

        Raises:
          TrustError: the file is damaged or gone; says what to do.
        """
        return self._load()[0]

    def line_of(self, source: str) -> str:
        """Returns the line that a URL must answer with.

        Raises:
          TrustError: several lines are pinned and none for this URL; or as `lines`.
        """
        lines, sources = self._load()
        if source in sources:
            return sources[source]
        if len(lines) == 1:
            return next(iter(lines))
        raise TrustError(
            f"{source} has no pinned line of its own, and this device has pinned "
            f"{', '.join(sorted(lines)) or 'none any more'}; pin the one that it must answer with "
            "(--trust=FILE)"
        )

    def pin(self, trust: TrustFile, source: str) -> None:
        """Pins a line, or the next roots of it, as what a URL must answer with.

        A trust file that is older than what is pinned changes nothing, if it is of the same chain.

        Args:
          trust: whose roots are trusted because a person says so. A line that is pinned already
            only follows rotations.
          source: the URL.

        Raises:
          TrustError: the file's own signatures do not fit, it has expired, or another one of the
            same line is pinned; nothing is changed.
        """
        what, line = "the trust file", trust.latest.line
        trust.verify(what)
        with locked(self._lock_path, wait=True):
            lines, sources = self._load() if self.is_pinned else ({}, {})
            before = lines.get(line)
            if before is None:
                if is_over(trust.latest.expires, self.now()):
                    raise TrustError(f"{what} expired at {trust.latest.expires}; get a newer one")
                floors = [each.root.floor for each in trust.roots if each.root.floor]
                lines[line] = Pinned(trust, at_least=floors[-1] if floors else 1)
            else:
                lines[line] = self._followed(before, trust, what)
            sources[source] = line
            self._save(lines, sources)

    def unpin(self, line: str) -> None:
        """Forgets a line: its keys, its versions, and that its models were accepted.

        Raises:
          TrustError: it is not pinned; lists those that are. Or as `lines`.
        """
        with locked(self._lock_path, wait=True):
            lines, sources = self._load() if self.is_pinned else ({}, {})
            if line not in lines:
                raise TrustError(
                    f"line {line!r} is not pinned here; pinned: {', '.join(sorted(lines)) or '-'}"
                )
            del lines[line]
            kept = {source: of for source, of in sources.items() if of != line}
            if lines:
                self._save(lines, kept)
            else:
                aside = self._path.parent.with_name(f".trust.{uuid.uuid4().hex}.tmp")
                self._path.parent.rename(aside)
                shutil.rmtree(aside)

    def accepted(self, model_id: str, source: str) -> Accepted | None:
        """Returns as what a model was accepted; None if it was not.

        Args:
          model_id: of the model.
          source: a URL. If it has a pinned line of its own, that alone counts.

        Raises:
          TrustError: as `lines`.
        """
        lines, sources = self._load()
        counted = [lines[sources[source]]] if source in sources else lines.values()
        found = (pinned.accepted.get(model_id) for pinned in counted)
        return next(filter(None, found), None)

    def accept(self, data: bytes, model_id: str, source: str) -> Accepted:
        """Takes a model of which a release file came, and remembers its version.

        Rotations that are signed as they must be are followed and kept, whatever the release is.

        Args:
          data: the release file, as it came.
          model_id: of the manifest that it came for, whose content was checked against it.
          source: the URL.

        Raises:
          TrustError: it is not vouched for: says why. Nothing of the model may be used.
        """
        with locked(self._lock_path, wait=True):
            lines, sources = self._load()
            line = self.line_of(source)
            what = f"the release that {source} sends"
            document = ReleaseFile.from_bytes(data, what)
            pinned = lines[line]
            if document.trust.latest.line == line:
                lines[line] = pinned = self._followed(pinned, document.trust, what)
                self._save(lines, sources)
            document.signed.check(
                pinned.trust.latest, model_id=model_id, now=self.now(), source=what
            )
            release = document.signed.release
            _check_version(pinned, release.version, model_id, what)
            accepted = Accepted(line, release.version, release.expires)
            others = {k: v for k, v in pinned.accepted.items() if k != model_id}
            latest = [*others.items(), (model_id, accepted)][-_MOST_ACCEPTED:]
            if pinned.accepted.get(model_id) == accepted:
                latest = list(pinned.accepted.items())
            lines[line] = dataclasses.replace(
                pinned, at_least=release.version, model_id=model_id, accepted=dict(latest)
            )
            self._save(lines, sources)
            return accepted

    def _followed(self, pinned: Pinned, trust: TrustFile, what: str) -> Pinned:
        """What is pinned after the rotations that `trust` adds to it.

        Raises:
          TrustError: they are not signed as they must be, or are of another chain.
        """
        line, roots = trust.latest.line, list(pinned.trust.roots)
        first = trust.roots[0].root.version
        if first > pinned.trust.latest.version + 1:
            raise TrustError(
                f"{what} begins with version {first} of the trust file of line {line!r}, and "
                f"version {pinned.trust.latest.version} is pinned here: those between are missing"
            )
        floor = None
        for each in trust.roots:
            known = pinned.trust.version(each.root.version)
            if known is not None and known.envelope.payload != each.envelope.payload:
                raise TrustError(
                    f"{what} has another version {each.root.version} of the trust file of line "
                    f"{line!r} than the one that is pinned here. If it is to be trusted all the "
                    f"same, unpin the line first (python -m accordion_jax.trust unpin)"
                )
            if each.root.version > roots[-1].root.version:
                check_successor(roots[-1], each, what)
                roots.append(each)
                floor = each.root.floor or floor
        return pinned.with_root(TrustFile(tuple(roots)), floor)

    def _load(self) -> tuple[dict[str, Pinned], dict[str, str]]:
        try:
            with self._path.open("rb") as file:
                return _read(parsed(file.read(_MOST_BYTES + 1), str(self._path), _MOST_BYTES))
        except (OSError, TrustError) as error:
            raise TrustError(
                f"{self._path}, which says which keys this device trusts and which versions it has "
                f"seen, is damaged or cannot be read ({error}). Nothing is taken from the network "
                f"until it is back, or until {self._path.parent} is moved away and the key pinned "
                "again (--trust=FILE), which forgets the versions"
            ) from error

    def _save(self, lines: Mapping[str, Pinned], sources: Mapping[str, str]) -> None:
        content = _written(lines, sources)
        try:
            if not self.is_pinned:
                # Killed at any moment, it leaves no folder without its file.
                with new_folder(self._path.parent) as folder:
                    (folder / self._path.name).write_bytes(content)
            elif self._path.read_bytes() != content:
                write_whole(self._path, content, survives_power_cut=True)
        except OSError as error:
            raise TrustError(
                f"{self._path} cannot be written ({error.strerror}), so that a version that was "
                "accepted would be forgotten; free some room, or put the cache elsewhere"
            ) from error


def read_trust(trust: str | os.PathLike | TrustFile) -> TrustFile:
    """Returns a trust file, read from the disk if it is a path.

    Raises:
      TrustError: there is none, or it is not sound; names the path.
    """
    if isinstance(trust, TrustFile):
        return trust
    try:
        return TrustFile.from_bytes(read_bounded(trust), str(trust))
    except OSError as error:
        raise TrustError(f"the trust file {trust} cannot be read: {error.strerror}") from error


def _check_version(pinned: Pinned, version: int, model_id: str, what: str) -> None:
    line = pinned.trust.latest.line
    if version < pinned.at_least:
        raise TrustError(
            f"{what} is of version {version} of line {line!r}; this device has seen, or its trust "
            f"file demands, version {pinned.at_least}: an older model is offered as new"
        )
    if version == pinned.at_least and pinned.model_id not in (None, model_id):
        raise TrustError(
            f"{what} says that version {version} of line {line!r} is model {model_id}; this device "
            f"has seen model {pinned.model_id} as that version"
        )


def _written(lines: Mapping[str, Pinned], sources: Mapping[str, str]) -> bytes:
    document = {
        "format": "accordion-pins",
        "format_version": 1,
        "lines": {
            name: {
                "roots": pinned.trust.to_list(),
                "at_least": pinned.at_least,
                "model_id": pinned.model_id,
                "accepted": [
                    {"model_id": model_id, "version": each.version, "expires": each.expires}
                    for model_id, each in pinned.accepted.items()
                ],
            }
            for name, pinned in lines.items()
        },
        "sources": dict(sources),
    }
    document["sha256"] = digest(canonical_json(document))
    return json.dumps(document, indent=1).encode() + b"\n"


def _read(document: Any) -> tuple[dict[str, Pinned], dict[str, str]]:
    fields = checked(
        document,
        {
            "format": (lambda v: v == "accordion-pins", "'accordion-pins'"),
            "format_version": (lambda v: v == 1, "1"),
            "lines": (lambda v: isinstance(v, dict), "an object"),
            "sources": (lambda v: isinstance(v, dict), "an object"),
            "sha256": (lambda v: isinstance(v, str), "its digest"),
        },
        "it",
    )
    rest = {name: value for name, value in fields.items() if name != "sha256"}
    if digest(canonical_json(rest)) != fields["sha256"]:
        raise TrustError("its content is not what was written: the digest differs")
    lines = {name: _read_line(name, line) for name, line in fields["lines"].items()}
    return lines, dict(fields["sources"])


def _read_line(name: str, document: Any) -> Pinned:
    digest_or_null = (
        lambda v: v is None or (isinstance(v, str) and is_digest(v)),
        "null or a model_id",
    )
    fields = checked(
        document,
        {
            "roots": (lambda v: isinstance(v, list) and v != [], "roots"),
            "at_least": VERSION,
            "model_id": digest_or_null,
            "accepted": (lambda v: isinstance(v, list), "a list"),
        },
        f"line {name!r}",
    )
    accepted = {}
    for each in fields["accepted"]:
        one = checked(
            each,
            {"model_id": digest_or_null, "version": VERSION, "expires": EXPIRES},
            f"a model of line {name!r}",
        )
        accepted[one["model_id"]] = Accepted(name, one["version"], one["expires"])
    trust = TrustFile.from_list(fields["roots"], f"line {name!r}")
    return Pinned(trust, fields["at_least"], fields["model_id"], accepted)
