"""The manifest of a bundle: what a model consists of, and how much each configuration needs of it.

A manifest is one JSON document. Its ``model_id`` is the digest of everything else in it, digests of
the segments included, so that an id names one model, for ever. Nothing in it is executable.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jsonschema

from accordion_jax.delivery.bundle.consistency import check_references
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.errors import ManifestError
from accordion_jax.depth import LookupTable, Row
from accordion_jax.system.text import short

FORMAT = "accordion-bundle"
FORMAT_VERSION = 1
# A ladder of 500 configurations takes about 2 MB. Whoever reads a manifest, from a network or a
# disk, stops here: a hostile or mistaken file must not fill the memory.
MAX_MANIFEST_BYTES = 16 << 20
# Numbers, names and lists in one. A ladder of 500 configurations of 500 blocks has 400,000.
MAX_VALUES = 1 << 19

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SCHEMA_PATH = pathlib.Path(__file__).with_name("manifest.schema.json")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A model that is cut into segments. Make one with `create` or `from_bytes`.

    Attributes:
      model_id: digest of everything else.
      follows: model_id of the version that this one replaces.
      model: what is needed to build the network; opaque here, read by the runtime of its family.
      segments: in sending order, the base first.
      ladder: smallest first. Each configuration is a prefix of the sending order.
      table: one row a configuration, in the ladder's order. Its sizes are those of the arrays;
        those on the wire are the segments'.
      provenance: where the model comes from.
    """

    model_id: str
    follows: str | None
    model: Mapping[str, Any]
    segments: tuple[Segment, ...]
    ladder: tuple[Configuration, ...]
    table: LookupTable
    provenance: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        *,
        segments: Sequence[Segment],
        ladder: Sequence[Configuration],
        model: Mapping[str, Any],
        table: LookupTable,
        provenance: Mapping[str, Any],
        follows: str | None = None,
    ) -> "Manifest":
        """Returns the manifest of these parts, with its id.

        Raises:
          ManifestError: as `from_bytes`.
        """
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "follows": follows,
            "model": model,
            "segments": [dataclasses.asdict(segment) for segment in segments],
            "ladder": [dataclasses.asdict(configuration) for configuration in ladder],
            "table": json.loads(table.to_json()),
            "provenance": provenance,
        }
        try:
            document["model_id"] = digest(canonical_json(document))
            data = canonical_json(document)
        except (TypeError, ValueError) as error:
            raise ManifestError(
                f"model and provenance must be finite JSON values: {error}"
            ) from error
        return cls.from_bytes(data, source="the new manifest")

    @classmethod
    def from_bytes(
        cls, data: bytes, *, source: str = "manifest", expected_id: str | None = None
    ) -> "Manifest":
        """Reads and checks a manifest.

        Args:
          data: the JSON document; spaces and the order of keys do not matter.
          source: what to call it in errors, for instance its path or URL.
          expected_id: the model_id that was asked for.

        Raises:
          ManifestError: larger than MAX_MANIFEST_BYTES, not JSON, another format or version,
            against the JSON Schema, a model_id that is not the digest of the content or not
            `expected_id`, or parts that contradict each other; names the source, the value, and
            what was wanted.
        """
        try:
            return cls._from_bytes(data, source, expected_id)
        except RecursionError as error:
            raise ManifestError(f"{source} is nested too deep to be a manifest") from error

    @classmethod
    def _from_bytes(cls, data: bytes, source: str, expected_id: str | None) -> "Manifest":
        _check_extent(data, source)
        document = _parse(data, source)
        _check_version(document, source)
        _check_schema(document, source)
        model_id = document["model_id"]
        content = _content_digest(document, source)
        if content != model_id:
            raise ManifestError(
                f"{source} has model_id={model_id}, but its content has the digest {content}: it "
                "was changed after it was written; fetch or write it again"
            )
        if expected_id is not None and model_id != expected_id:
            raise ManifestError(f"{source} is of model {model_id}; wanted {expected_id}")
        try:
            table = LookupTable.from_json(json.dumps(document["table"]), f"the table of {source}")
        except (TypeError, ValueError) as error:
            raise ManifestError(str(error)) from error
        manifest = cls(
            model_id=model_id,
            follows=document["follows"],
            model=document["model"],
            segments=tuple(
                Segment(**(s | {"depends_on": tuple(s["depends_on"])}))
                for s in document["segments"]
            ),
            ladder=tuple(
                Configuration(c["name"], tuple(c["segments"]), tuple(c["skip_mask"]))
                for c in document["ladder"]
            ),
            table=table,
            provenance=document["provenance"],
        )
        check_references(manifest.segments, manifest.ladder, manifest.table, source)
        return manifest

    def to_bytes(self) -> bytes:
        """Returns the manifest as canonical JSON: the same bytes for the same manifest."""
        return canonical_json(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "model_id": self.model_id,
                "follows": self.follows,
                "model": self.model,
                "segments": [dataclasses.asdict(segment) for segment in self.segments],
                "ladder": [dataclasses.asdict(configuration) for configuration in self.ladder],
                "table": json.loads(self.table.to_json()),
                "provenance": self.provenance,
            }
        )

    @functools.cached_property
    def by_name(self) -> Mapping[str, Segment]:
        """Segments by name, in sending order."""
        return {segment.name: segment for segment in self.segments}

    @functools.cached_property
    def by_sha256(self) -> Mapping[str, Segment]:
        """Segments by digest, in sending order; of equal segments the first."""
        return {segment.sha256: segment for segment in reversed(self.segments)}

    @functools.cached_property
    def configurations(self) -> Mapping[str, Configuration]:
        """Configurations by name, smallest first."""
        return {configuration.name: configuration for configuration in self.ladder}

    @functools.cached_property
    def rows(self) -> Mapping[str, Row]:
        """Rows of the look-up table by name of the configuration, smallest first."""
        return {row.configuration: row for row in self.table.rows}

    @functools.cached_property
    def size_bytes(self) -> int:
        """Wire bytes of the whole model; segments of equal content count once."""
        return sum(segment.size_bytes for segment in self.by_sha256.values())

    def deepest_held(self, held: Collection[str]) -> Configuration | None:
        """The largest configuration of which every segment is held; None if none is complete.

        Args:
          held: digests of the segments that the device has; others than this model's are ignored.
        """
        complete = 0
        for segment in self.segments:
            if segment.sha256 not in held:
                break
            complete += 1
        within = [c for c in self.ladder if len(c.segments) <= complete]
        return within[-1] if within else None

    def collection(self, tensor: str) -> str:
        """The collection of variables that a tensor belongs to, for instance ``batch_stats``.

        ``model["collections"]`` lists, for each collection, the last parts of its tensors' names.
        A tensor that is not listed belongs to ``params``.

        Args:
          tensor: its name in a segment, for instance ``norm1/mean``.
        """
        last = tensor.rpartition("/")[2]
        for name, endings in self.model.get("collections", {}).items():
            if last in endings:
                return name
        return "params"


def canonical_json(document: Any) -> bytes:
    """Returns a JSON document as bytes that depend on its content only.

    Keys sorted, no spaces, UTF-8, numbers as Python writes them.

    Raises:
      TypeError: a value has no JSON form.
      ValueError: a number is not finite.
    """
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def digest(data: bytes) -> str:
    """Returns the SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal, and so safe in a path."""
    return _DIGEST.fullmatch(text) is not None


@functools.cache
def manifest_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a manifest."""
    return json.loads(_SCHEMA_PATH.read_text(encoding="utf-8"))


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(manifest_schema())


def _check_extent(data: bytes, source: str) -> None:
    """Before anything is parsed: what is made of the bytes takes many times their memory."""
    # Each value but the first of its list or object follows a comma.
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    for found, most, what in (
        (len(data), MAX_MANIFEST_BYTES, "bytes"),
        (values, MAX_VALUES, "values"),
    ):
        if found > most:
            raise ManifestError(
                f"{source} has {found} {what}; a manifest has at most {most}: cut the model into "
                "fewer segments or configurations"
            )


def _parse(data: bytes, source: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{source} is not JSON: {error}") from error


def _check_version(document: Any, source: str) -> None:
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ManifestError(f"{source} has format={short(found)}; wanted {FORMAT!r}")
    version = document.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ManifestError(
            f"{source} has format_version={short(version)}; this version of accordion_jax reads "
            f"{FORMAT_VERSION}: upgrade accordion_jax, or write the bundle again"
        )


def _check_schema(document: Any, source: str) -> None:
    # The first alone: a list of numbers where segments are due has one error a number.
    error = next(_validator().iter_errors(_without_plain_lists(document)), None)
    if error is not None:
        where = "/".join(map(str, error.path)) or "the document"
        raise ManifestError(
            f"{source}: {where} is {short(error.instance)}, which breaks "
            f"{error.validator}={short(error.validator_value)} of manifest.schema.json"
        )


def _without_plain_lists(document: dict[str, Any]) -> dict[str, Any]:
    """The document for the validator, which takes longer than all the rest over long lists.

    Lists of names and of booleans are checked here, and left out where nothing is wrong with them.
    """

    def shortened(entries: Any, kinds: Mapping[str, type]) -> Any:
        if not isinstance(entries, list) or len(entries) > MAX_VALUES:
            return entries
        return [
            each
            | {
                name: each[name][:1]
                for name, kind in kinds.items()
                if isinstance(each.get(name), list) and all(type(v) is kind for v in each[name])
            }
            if isinstance(each, dict)
            else each
            for each in entries
        ]

    return document | {
        "segments": shortened(document.get("segments"), {"depends_on": str}),
        "ladder": shortened(document.get("ladder"), {"segments": str, "skip_mask": bool}),
    }


def _content_digest(document: dict[str, Any], source: str) -> str:
    try:
        return digest(canonical_json({k: v for k, v in document.items() if k != "model_id"}))
    except ValueError as error:  # a number like 1e999, or half of a surrogate pair
        raise ManifestError(f"{source} has a value that JSON cannot carry: {error}") from error
