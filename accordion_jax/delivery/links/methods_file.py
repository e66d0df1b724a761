"""Methods of a replay from JSON files: measured rivals, and a model's rungs.

A file of rivals is the table of `benchmarks.compositions.table`::

    {"rows": [{"name": ..., "rival": true, "points": [{"bytes": ..., "error": ...}, ...]}, ...]}

A row is one method; its points are models that come one after the other, in order of arrival. Rows
that are no rivals are left out. A file of rungs is one method: ``{"rungs": [{"bytes": ...,
"error": ...}, ...]}``, with ``round_trips`` and ``overhead_bytes`` where they are not 1 and 0; or
it is a row of such a table.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from accordion_jax.delivery.links.replay import Method
from accordion_jax.system.files import read_json
from accordion_jax.system.text import short


def read_rivals(path: str | os.PathLike) -> list[Method]:
    """Returns the rivals of a file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged or has none; names what is wrong.
    """
    methods = [
        method_of(str(row.get("name")), row.get("points"), path)
        for row in _rows(_read(path), path)
        if row.get("rival") is True
    ]
    if not methods:
        raise ValueError(f"{path} has no row that is a rival; wanted one with rival: true")
    return methods


def read_rungs(path: str | os.PathLike, row: str = "") -> Method:
    """Returns Accordion as a file of rungs has it.

    Args:
      path: of the file.
      row: name of the row, where the file is a table.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged; names what is wrong.
    """
    document = _read(path)
    trips, overhead = document.get("round_trips", 1), document.get("overhead_bytes", 0)
    for name, value in (("round_trips", trips), ("overhead_bytes", overhead)):
        if type(value) is not int or value < 0:
            raise ValueError(f"{path}: {name}={short(value)} must be a whole number from 0")
    rungs = document.get("rungs")
    if row:
        named = {each.get("name"): each.get("points") for each in _rows(document, path)}
        if row not in named:
            raise ValueError(f"{path} has no row {row!r}; it has {sorted(map(str, named))}")
        rungs = named[row]
    return method_of("Accordion", rungs, path, trips, overhead)


def method_of(
    name: str,
    points: Any,
    path: str | os.PathLike,
    round_trips: int = 1,
    overhead_bytes: int = 0,
) -> Method:
    """Returns the method whose models are complete at some bytes; the best complete one is used.

    Args:
      name: of the method.
      points: JSON value, ``[{"bytes": ..., "error": ...}, ...]``.
      path: of the file, for an error.
      round_trips: before the first byte.
      overhead_bytes: before the first model's bytes.

    Raises:
      ValueError: the points are no such list; names what is wrong.
    """
    if not isinstance(points, list) or not points:
        raise ValueError(f"{path}: {name!r} has the points {short(points)}; wanted a list of some")
    for point in points:
        size, error = (
            (point.get("bytes"), point.get("error")) if isinstance(point, Mapping) else (None, None)
        )
        if type(size) is not int or size < 0 or not _is_share(error):
            raise ValueError(
                f"{path}: {name!r} has the point {short(point)}; wanted bytes, a whole number from "
                "0, and error, from 0 to 1"
            )
    ordered: Sequence[Mapping[str, Any]] = sorted(points, key=lambda point: point["bytes"])
    return Method(
        name,
        tuple(point["bytes"] + overhead_bytes for point in ordered),
        tuple(itertools.accumulate((float(point["error"]) for point in ordered), min)),
        round_trips=round_trips,
    )


def _rows(document: Mapping[str, Any], path: str | os.PathLike) -> list[Mapping[str, Any]]:
    rows = document.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"{path} has no list of rows; wanted a table of compositions")
    return rows


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _read(path: str | os.PathLike) -> dict[str, Any]:
    document = read_json(path)
    if not document:
        raise FileNotFoundError(f"{path} does not exist, or is empty")
    return document
