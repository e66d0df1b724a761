"""The parts of a manifest as columns, and columns as parts.

A manifest is sent before everything else, so it is to be small. What follows from other things in
it is not there: sizes of configurations, shares, intervals. What many parts have in common is there
once: the shapes of the tensors of equal blocks, and what a skip mask costs at any number of bits. A
list of one kind of number compresses better than a list of objects, and digests, which do not
compress at all, are one text in base64.
"""

import base64
import binascii
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.delivery.bundle.sets import (
    MAX_TOTAL_BYTES,
    contents_needed,
    membership,
    once_each,
)
from accordion_jax.delivery.errors import BundleError, ManifestError
from accordion_jax.depth import LookupTable, Row, UnitCost, derive_row

_DIGEST_BYTES = 32
_FLOAT32_BITS = 32
_MOST = 2**53 - 1


def segments_to_columns(segments: Sequence[Segment]) -> dict[str, Any]:
    """Returns the fields ``layouts``, ``units`` and ``segments`` of a manifest.

    Args:
      segments: in sending order.
    """
    layouts: list[Any] = []
    units: dict[str, int] = {}
    of_units: list[int] = []
    for segment in segments:
        if segment.unit in units:
            continue
        units[segment.unit] = len(units)
        layout = segment.layout.to_json() if segment.layout else segment.tensor_bytes
        if layout not in layouts:
            layouts.append(layout)
        of_units.append(layouts.index(layout))
    digests = b"".join(bytes.fromhex(segment.sha256) for segment in segments)
    return {
        "layouts": layouts,
        "units": {"name": list(units), "layout": of_units},
        "segments": {
            "unit": [units[segment.unit] for segment in segments],
            "bits": [segment.bits for segment in segments],
            "size_bytes": [segment.size_bytes for segment in segments],
            "sha256": base64.b64encode(digests).decode("ascii"),
        },
    }


def segments_from_columns(document: Mapping[str, Any], source: str) -> tuple[Segment, ...]:
    """Returns what `segments_to_columns` made columns of; each column was checked by itself.

    Raises:
      ManifestError: columns do not fit together, or a layout is none; names the source.
    """
    units, columns = document["units"], document["segments"]
    count = len(columns["unit"])
    try:
        digests = base64.b64decode(columns["sha256"], validate=True).hex()
    except (binascii.Error, ValueError) as error:
        raise ManifestError(f"{source}: segments/sha256 is no base64: {error}") from error
    if len(digests) != 2 * _DIGEST_BYTES * count:
        raise ManifestError(
            f"{source}: segments/sha256 has {len(digests) // 2} bytes; wanted {_DIGEST_BYTES} of "
            f"each of {count} segments"
        )
    try:
        layouts = [
            each if isinstance(each, int) else Layout.from_json(each)
            for each in document["layouts"]
        ]
    except BundleError as error:
        raise ManifestError(f"{source}: {error}") from error
    segments: list[Segment] = []
    last_of: dict[int, Segment] = {}
    own = {*document["depths"].get("statistics", ())}
    for i, (unit, bits, size_bytes) in enumerate(
        zip(columns["unit"], columns["bits"], columns["size_bytes"], strict=True)
    ):
        name = _at(units["name"], unit, f"segments/unit/{i}", source)
        layout = _at(layouts, units["layout"][unit], f"units/layout/{unit}", source)
        before = last_of.get(unit)
        last_of[unit] = Segment(
            name=name if before is None else f"{name}.{bits}",
            unit=name,
            bits=bits,
            sha256=digests[64 * i : 64 * i + 64],
            size_bytes=size_bytes,
            tensor_bytes=layout if isinstance(layout, int) else layout.tensor_bytes,
            layout=None if isinstance(layout, int) else layout,
            refines=None if before is None else before.name,
            is_statistics=unit in own,
        )
        segments.append(last_of[unit])
    for name in ("size_bytes", "tensor_bytes"):
        total = sum(getattr(segment, name) for segment in segments)
        if total > MAX_TOTAL_BYTES:
            raise ManifestError(
                f"{source}: all segments have {name}={total} together; a bundle has at most "
                f"{MAX_TOTAL_BYTES}"
            )
    return tuple(segments)


def ladder_to_columns(
    segments: Sequence[Segment], ladder: Sequence[Configuration], table: LookupTable
) -> dict[str, Any]:
    """Returns the fields ``stage_sizes``, ``depths`` and ``ladder`` of a manifest.

    Args:
      segments: in sending order.
      ladder: of these segments.
      table: with a row a configuration, of the same name. The full model's comes last.

    Raises:
      KeyError: there is none.
    """
    place = {segment.name: i for i, segment in enumerate(segments)}
    units = {unit: i for i, unit in enumerate(dict.fromkeys(each.unit for each in segments))}
    depths: dict[tuple[str, int, int, int | None], int] = {}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("name", "depth", "segments", "examples", "errors", "cross_entropy")
    }
    rows = {row.configuration: row for row in table.rows}
    for configuration in ladder:
        row = rows[configuration.name]
        mask = "".join("1" if skip else "0" for skip in configuration.skip_mask)
        own = None if configuration.statistics is None else units[configuration.statistics]
        depth = depths.setdefault((mask, row.parameters, row.macs, own), len(depths))
        needed = [place[name] for name in configuration.segments]
        is_prefix = needed == list(range(len(needed)))
        columns["name"].append(configuration.name)
        columns["depth"].append(depth)
        columns["segments"].append(len(needed) if is_prefix else needed)
        for name in ("examples", "errors", "cross_entropy"):
            columns[name].append(getattr(row, name))
    statistics = [own for _, _, _, own in depths]
    has_own = any(own is not None for own in statistics)
    return {
        "stage_sizes": list(table.full.stage_blocks),
        "depths": {
            "skip_mask": [mask for mask, _, _, _ in depths],
            "parameters": _changes([parameters for _, parameters, _, _ in depths]),
            "macs": _changes([macs for _, _, macs, _ in depths]),
            # Most models have none.
            **({"statistics": statistics} if has_own else {}),
        },
        "ladder": columns,
    }


def ladder_from_columns(
    document: Mapping[str, Any], segments: Sequence[Segment], source: str
) -> tuple[Configuration, ...]:
    """Returns the configurations that `ladder_to_columns` made columns of.

    Each column was checked by itself.

    Args:
      document: the manifest.
      segments: of it.
      source: what to call it in errors.

    Raises:
      ManifestError: an index or a count is wrong; names the source.
    """
    columns, depths, sizes = document["ladder"], document["depths"], document["stage_sizes"]
    units = document["units"]["name"]
    owns = [
        None if own is None else _at(units, own, f"depths/statistics/{i}", source)
        for i, own in enumerate(depths.get("statistics", [None] * len(depths["skip_mask"])))
    ]
    ladder = []
    for i, needed in enumerate(columns["segments"]):
        where = f"ladder/segments/{i}"
        indices = range(needed) if isinstance(needed, int) else needed
        if isinstance(needed, list) and any(a >= b for a, b in itertools.pairwise(needed)):
            raise ManifestError(f"{source}: {where} must name segments in sending order, each once")
        if indices:
            _at(segments, indices[-1], where, source)
        mask = _at(depths["skip_mask"], columns["depth"][i], f"ladder/depth/{i}", source)
        if len(mask) != sum(sizes):
            raise ManifestError(
                f"{source}: depths/skip_mask/{columns['depth'][i]} has {len(mask)} blocks; "
                f"stage_sizes has {sum(sizes)}"
            )
        ladder.append(
            Configuration(
                columns["name"][i],
                tuple([segments[index].name for index in indices]),
                tuple([skip == "1" for skip in mask]),
                owns[columns["depth"][i]],
            )
        )
    return tuple(ladder)


def table_from_columns(
    document: Mapping[str, Any],
    segments: Sequence[Segment],
    ladder: Sequence[Configuration],
    source: str,
) -> LookupTable:
    """Returns the look-up table: what was counted, and what follows from it and the segments.

    Args:
      document: the manifest.
      segments: of it, which fit together.
      ladder: likewise.
      source: what to call it in errors.

    Raises:
      ManifestError: it is no look-up table; names the source.
    """
    try:
        return _table(document, segments, ladder)
    except ValueError as error:
        raise ManifestError(f"{source}: {error}") from error


def _table(
    document: Mapping[str, Any], segments: Sequence[Segment], ladder: Sequence[Configuration]
) -> LookupTable:
    columns = document["ladder"]
    parameters, macs = (_sums(document["depths"], name) for name in ("parameters", "macs"))
    members = membership(segments, ladder)
    wire_bytes = (contents_needed(segments, members) @ once_each(segments)[1]).astype(np.int64)
    bits = mean_bits(segments, members)
    rows: list[Row] = []
    for i, configuration in enumerate(ladder):
        if columns["errors"][i] > columns["examples"][i]:
            raise ValueError(
                f"ladder/errors/{i} is {columns['errors'][i]}, of {columns['examples'][i]} examples"
            )
        depth = columns["depth"][i]
        rows.append(
            derive_row(
                configuration.name,
                stage_blocks=_kept(configuration.skip_mask, document["stage_sizes"]),
                blocks=len(configuration.skip_mask),
                cost=UnitCost(parameters[depth], int(wire_bytes[i]), macs[depth]),
                full_bytes=int(wire_bytes[-1]),
                examples=columns["examples"][i],
                errors=columns["errors"][i],
                cross_entropy=columns["cross_entropy"][i],
                bits=float(bits[i]),
            )
        )
    return LookupTable(tuple(rows), document["provenance"])


def _changes(values: Sequence[int]) -> list[int]:
    """The first value, and then what each one adds: equal blocks add equally much."""
    return [after - before for before, after in itertools.pairwise((0, *values))]


def _sums(columns: Mapping[str, Any], name: str) -> list[int]:
    sums = list(itertools.accumulate(columns[name]))
    for i, value in enumerate(sums):
        if not 0 <= value <= _MOST:
            raise ValueError(f"depths/{name} adds up to {value} at {i}; wanted 0 to 2^53 - 1")
    return sums


def mean_bits(segments: Sequence[Segment], members: np.ndarray) -> np.ndarray:
    """Returns [configurations] float64: bits a weight, the mean over its weights.

    Own statistics are no weights.

    Args:
      segments: in sending order.
      members: [configurations, segments] bool, which of them each needs.
    """
    bits_of: dict[str, int] = {}
    added, weights = np.zeros((2, len(segments)))
    for i, segment in enumerate(segments):
        if segment.is_statistics:
            continue
        bits = segment.bits or _FLOAT32_BITS
        numbers = segment.tensor_bytes // (4 if segment.layout else max(1, bits // 8))
        # A refinement adds the bits that the segment before it lacks.
        added[i] = (bits - bits_of.get(segment.unit, 0)) * numbers
        weights[i] = 0 if segment.refines else numbers
        bits_of[segment.unit] = bits
    return members @ added / np.maximum(members @ weights, 1)


def _kept(skip_mask: Sequence[bool], stage_sizes: Sequence[int]) -> tuple[int, ...]:
    ends = itertools.accumulate(stage_sizes, initial=0)
    return tuple(end - start - sum(skip_mask[start:end]) for start, end in itertools.pairwise(ends))


def _at(values: Sequence[Any], index: int, where: str, source: str) -> Any:
    if not 0 <= index < len(values):
        raise ManifestError(f"{source}: {where} is {index}; there are {len(values)}, from 0")
    return values[index]
