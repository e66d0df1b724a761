"""The look-up table: what each configuration costs to send and to run, and how well it does.

The network endpoint reads it to choose what to send; a researcher reads it as the result of a run.
"""

import csv
import dataclasses
import functools
import io
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

from accordion_jax.depth.bounds import risk_of, upper_band
from accordion_jax.depth.row import Row, check_finite, fields_of, row_from_dict
from accordion_jax.system.files import write_whole

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class LookupTable:
    """Rows from the smallest configuration to the full model, and where they come from.

    Attributes:
      rows: ordered by size_bytes.
      provenance: JSON-able facts of the run: scheme, data set and split, seed, step, precision, …

    Raises:
      ValueError: no rows, or rows not ordered by size; names the rows.
    """

    rows: tuple[Row, ...]
    provenance: dict[str, Any]

    def __post_init__(self):
        if not self.rows:
            raise ValueError("a look-up table needs at least one row; got none")
        for small, large in zip(self.rows, self.rows[1:], strict=False):
            if small.size_bytes > large.size_bytes:
                raise ValueError(
                    f"rows must not shrink in size_bytes: {small.configuration!r} has "
                    f"{small.size_bytes}, the next, {large.configuration!r}, {large.size_bytes}"
                )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def full(self) -> Row:
        """The full model's row."""
        return self.rows[-1]

    def row(self, configuration: str) -> Row:
        """The row of a configuration.

        Raises:
          KeyError: there is none of that name; lists those there are.
        """
        for row in self.rows:
            if row.configuration == configuration:
                return row
        known = ", ".join(row.configuration for row in self.rows)
        raise KeyError(f"no configuration {configuration!r} in the table; it has {known}")

    def pareto(self) -> tuple[Row, ...]:
        """Rows that no smaller or equal row matches in error: the ones worth sending."""
        best, kept = math.inf, []
        for row in self.rows:
            if row.top1_error < best:
                best = row.top1_error
                kept.append(row)
        return tuple(kept)

    def at_share_of_bytes(self, share: float) -> Row | None:
        """The row of least error among those of at most `share` of the bytes; None if none is."""
        within = [row for row in self.rows if row.share_of_bytes <= share + 1e-12]
        return min(within, key=lambda row: (row.top1_error, row.size_bytes), default=None)

    def smallest_reaching(self, error: float) -> Row | None:
        """The smallest row with a top-1 error of at most `error`; None if none reaches it."""
        return next((row for row in self.rows if row.top1_error <= error), None)

    def upper_bounds(self, confidence: float) -> tuple[float, ...]:
        """Returns upper bounds of the rows' errors, which hold all at once with this confidence.

        Over the draw of the examples that they were measured on: `bounds.upper_band`. The first
        call for a confidence takes some milliseconds, later ones none.

        Args:
          confidence: in [0.5, 1); 1 - confidence is rounded down to two significant digits.

        Raises:
          ValueError: as `bounds.risk_of`.
        """
        return self._bands(risk_of(confidence))

    @functools.cached_property
    def _bands(self) -> Callable[[float], tuple[float, ...]]:
        errors, examples = (
            [getattr(r, name) for r in self.rows] for name in ("errors", "examples")
        )
        # Few of them: whoever asks an endpoint chooses the confidence.
        return functools.lru_cache(64)(
            lambda risk: tuple(upper_band(errors, examples, risk).tolist())
        )

    def to_json(self) -> str:
        """Returns the table as a JSON document with its schema version.

        Raises:
          ValueError: a number is not finite, as of a run that diverged; names row and field.
        """
        for row in self.rows:
            check_finite(dataclasses.asdict(row), "the look-up table")
        document = {
            "schema_version": SCHEMA_VERSION,
            "provenance": self.provenance,
            "rows": [fields_of(row) for row in self.rows],
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "look-up table") -> "LookupTable":
        """Reads what `to_json` wrote.

        Args:
          text: the document.
          source: what to call it in errors, for instance its path.

        Raises:
          ValueError: not JSON, another schema version, a field that is missing, unknown or of the
            wrong type, or a number that does not follow from those that it derives from; names the
            source and the field.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is not JSON: {error}") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{source} has schema_version={version!r}; this version reads {SCHEMA_VERSION}"
            )
        rows, provenance = document.get("rows"), document.get("provenance")
        if not isinstance(rows, list) or not isinstance(provenance, dict):
            raise ValueError(f"{source} needs a list 'rows' and an object 'provenance'")
        table = cls(tuple(row_from_dict(row, source) for row in rows), provenance)
        _check_totals(table, source)
        return table

    def to_csv(self) -> str:
        """Returns the rows as CSV with a header; stage_blocks as ``18/9/0``."""
        out = io.StringIO()
        names = max((list(fields_of(row)) for row in self.rows), key=len)
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            fields = {name: getattr(row, name) for name in names}
            writer.writerow(fields | {"stage_blocks": "/".join(map(str, row.stage_blocks))})
        return out.getvalue()

    def write(self, folder: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
        """Writes ``lookup_table.json`` and ``lookup_table.csv``, each whole or not at all.

        Returns:
          The two paths.
        """
        folder = pathlib.Path(folder)
        paths = folder / "lookup_table.json", folder / "lookup_table.csv"
        for path, text in zip(paths, (self.to_json(), self.to_csv()), strict=True):
            write_whole(path, text)
        return paths

    @classmethod
    def read(cls, path: str | os.PathLike) -> "LookupTable":
        """Reads a table from a JSON file, or from the ``lookup_table.json`` of a run's folder.

        Raises:
          FileNotFoundError: there is none; names the path.
          ValueError: as `from_json`.
        """
        path = pathlib.Path(path)
        if path.is_dir():
            path = path / "lookup_table.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"no look-up table at {path}; a finished run of accordion_jax.main writes it"
            )
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))


def _check_totals(table: LookupTable, source: str) -> None:
    """Refuses shares of two different full models."""
    for part, share in (("size_bytes", "share_of_bytes"), ("depth", "share_of_blocks")):
        # Of the largest row, where rounding matters least.
        largest = max(table.rows, key=lambda row: getattr(row, part))
        total = getattr(largest, part) / (getattr(largest, share) or 1)
        for row in table.rows:
            whole = getattr(row, share) * total
            if not math.isclose(whole, getattr(row, part), rel_tol=1e-6, abs_tol=1e-6):
                raise ValueError(
                    f"{source}: row {row.configuration!r} has {share}={getattr(row, share)!r} and "
                    f"{part}={getattr(row, part)}; by row {largest.configuration!r} the full model "
                    f"has {part}={total:g}"
                )
