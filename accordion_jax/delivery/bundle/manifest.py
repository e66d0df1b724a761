"""The manifest of a bundle: what a model consists of, and how much each configuration needs of it.

A manifest is one JSON document (`document`, `columns`). Its ``model_id`` is the digest of
everything else in it, digests of the segments included, so that an id names one model, for ever.
Nothing in it is executable.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from accordion_jax.delivery.bundle.columns import (
    ladder_from_columns,
    ladder_to_columns,
    segments_from_columns,
    segments_to_columns,
    table_from_columns,
)
from accordion_jax.delivery.bundle.consistency import check_ladder, check_segments
from accordion_jax.delivery.bundle.document import (
    FORMAT,
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    MAX_VALUES,
    canonical_json,
    digest,
    manifest_schema,
    read_document,
)
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.bundle.sets import Sets
from accordion_jax.delivery.bundle.statistics import check_statistics
from accordion_jax.delivery.errors import ManifestError
from accordion_jax.depth import LookupTable, Row

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A model that is cut into segments. Make one with `create` or `from_bytes`.

    Attributes:
      model_id: digest of everything else.
      follows: model_id of the version that this one replaces.
      model: what is needed to build the network; opaque here, read by the runtime of its family.
      segments: in sending order, the base first.
      ladder: by growing bytes; the last is the full model. Those of the default path need the first
        segments of the sending order; others may need any that are of use together, statistics of
        their own among them.
      table: one row a configuration, in the ladder's order. Its sizes are those on the wire.
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

        Args:
          segments: in sending order.
          ladder: by growing bytes.
          model: JSON-able.
          table: a row a configuration: what was counted, and what it costs to run. Sizes and all
            else that follows from the segments is worked out from them.
          provenance: JSON-able.
          follows: model_id.

        Raises:
          ManifestError: as `from_bytes`; or the table lacks a row.
        """
        try:
            columns = ladder_to_columns(segments, ladder, table)
        except KeyError as error:
            raise ManifestError(
                f"the new manifest: there is no configuration, row or segment {error}; the "
                f"look-up table has rows {[row.configuration for row in table.rows]}"
            ) from error
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "follows": follows,
            "model": model,
            **segments_to_columns(segments),
            **columns,
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
            document = read_document(data, source, expected_id)
        except RecursionError as error:
            raise ManifestError(f"{source} is nested too deep to be a manifest") from error
        segments = segments_from_columns(document, source)
        check_segments(segments, source)
        ladder = ladder_from_columns(document, segments, source)
        check_ladder(segments, ladder, source)
        manifest = cls(
            model_id=document["model_id"],
            follows=document["follows"],
            model=document["model"],
            segments=segments,
            ladder=ladder,
            table=table_from_columns(document, segments, ladder, source),
            provenance=document["provenance"],
        )
        check_statistics(segments, ladder, manifest.collection, source)
        if manifest.document() != document:
            raise ManifestError(
                f"{source} says a thing twice or in another form than the one that is written: "
                "equal layouts or depths apart, say; write the bundle again"
            )
        return manifest

    def document(self) -> dict[str, Any]:
        """Returns the manifest as a JSON object."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model_id": self.model_id,
            "follows": self.follows,
            "model": self.model,
            **segments_to_columns(self.segments),
            **ladder_to_columns(self.segments, self.ladder, self.table),
            "provenance": self.provenance,
        }

    def to_bytes(self) -> bytes:
        """Returns the manifest as canonical JSON: the same bytes for the same manifest."""
        return canonical_json(self.document())

    @functools.cached_property
    def by_name(self) -> Mapping[str, Segment]:
        """Segments by name, in sending order."""
        return {segment.name: segment for segment in self.segments}

    @functools.cached_property
    def by_sha256(self) -> Mapping[str, Segment]:
        """Segments by digest, in sending order; of equal segments the first."""
        first: dict[str, Segment] = {}
        for segment in self.segments:
            first.setdefault(segment.sha256, segment)
        return first

    @functools.cached_property
    def configurations(self) -> Mapping[str, Configuration]:
        """Configurations by name, smallest first."""
        return {configuration.name: configuration for configuration in self.ladder}

    @functools.cached_property
    def rows(self) -> Mapping[str, Row]:
        """Rows of the look-up table by name of the configuration, smallest first."""
        return {row.configuration: row for row in self.table.rows}

    @functools.cached_property
    def refined(self) -> frozenset[str]:
        """Names of the segments that others refine."""
        return frozenset(s.refines for s in self.segments if s.refines is not None)

    @functools.cached_property
    def path(self) -> tuple[Configuration, ...]:
        """The configurations of the default path: those of the first segments, smallest first."""
        order = tuple(segment.name for segment in self.segments)
        return tuple(c for c in self.ladder if c.segments == order[: len(c.segments)])

    @functools.cached_property
    def path_at_best(self) -> tuple[Configuration, ...]:
        """The same; those that may have statistics of their own with them, by growing bytes."""
        own = {
            tuple(n for n in c.segments if not self.by_name[n].is_statistics): c
            for c in self.ladder
            if c.statistics is not None
        }
        chosen = {own.get(c.segments, c).name for c in self.path}
        return tuple(c for c in self.ladder if c.name in chosen)

    @functools.cached_property
    def sets(self) -> Sets:
        """The configurations as sets of segments, in arrays."""
        return Sets.of(self.segments, self.ladder, self.table)

    @functools.cached_property
    def size_bytes(self) -> int:
        """Wire bytes of the full model; segments of equal content count once."""
        needed = (self.by_name[name] for name in self.ladder[-1].segments)
        return sum({segment.sha256: segment.size_bytes for segment in needed}.values())

    def complete(self, held: Collection[str]) -> tuple[Configuration, ...]:
        """Returns the configurations of which every segment is held, the best first.

        The best is the one of the least error in the table; of equal ones, that of the fewest
        operations.

        Args:
          held: digests of the segments that the device has; others than this model's are ignored.
        """
        return tuple(self.ladder[i] for i in self.sets.complete(held))

    def memory_bytes(self, configuration: Configuration) -> int:
        """Returns the bytes of the tensors that a configuration needs, unpacked."""
        return int(self.sets.memory_bytes[self._places[configuration.name]])

    @functools.cached_property
    def _places(self) -> Mapping[str, int]:
        return {configuration.name: i for i, configuration in enumerate(self.ladder)}

    def finest(self, configuration: Configuration) -> tuple[str, ...]:
        """Returns the names of a configuration's segments that no other one of it refines."""
        return tuple({self.by_name[name].unit: name for name in configuration.segments}.values())

    def bits(self, configuration: Configuration) -> tuple[int, int] | None:
        """Returns the fewest and the most bits a weight of its units; None if not known."""
        finest = (self.by_name[name] for name in self.finest(configuration))
        found = [segment.bits for segment in finest if not segment.is_statistics]
        known = [bits for bits in found if bits is not None]
        return (min(known), max(known)) if len(known) == len(found) else None

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


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal, and so safe in a path."""
    return _DIGEST.fullmatch(text) is not None


__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MAX_MANIFEST_BYTES",
    "MAX_VALUES",
    "Manifest",
    "canonical_json",
    "digest",
    "is_digest",
    "manifest_schema",
]
