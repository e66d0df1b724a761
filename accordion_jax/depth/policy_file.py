"""A policy as a small JSON file: how probable each configuration is, and where that is from.

A run that uses one keeps its content (`policy.json`), so the file may go.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from accordion_jax.depth.ladder import Ladder
from accordion_jax.depth.table import LookupTable
from accordion_jax.system.files import write_whole

FORMAT = "accordion_jax policy 1"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One configuration of a policy file.

    Attributes:
      name: of the configuration.
      stage_blocks: blocks kept in each stage: by them it is found on the ladder that is trained.
      size_bytes: as the policy was fitted with.
      probability: of drawing it.
    """

    name: str
    stage_blocks: tuple[int, ...]
    size_bytes: int
    probability: float


@dataclasses.dataclass(frozen=True)
class PolicyFile:
    """Probabilities of configurations, with their provenance.

    Attributes:
      scheme: of the look-up table whose ladder this is.
      entries: smallest first; the last is the full model.
      facts: what was fitted, and what was left out: JSON-able.
      provenance: command, and the SHA-256 of each input by its name.

    Raises:
      ValueError: no entries, a probability that is none, or probabilities that do not sum to 1
        (within 1e-6); names the value.
    """

    scheme: str
    entries: tuple[Entry, ...]
    facts: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __post_init__(self):
        check_distribution([entry.probability for entry in self.entries], "the policy")

    @property
    def probabilities(self) -> tuple[float, ...]:
        """One an entry."""
        return tuple(entry.probability for entry in self.entries)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Blocks a stage of the full model."""
        return self.entries[-1].stage_blocks

    @classmethod
    def like(
        cls,
        ladder: "LookupTable | PolicyFile",
        probabilities: Sequence[float],
        *,
        facts: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> "PolicyFile":
        """Returns the policy of these probabilities, one a row of a table or entry of a file."""
        if isinstance(ladder, PolicyFile):
            scheme, like = ladder.scheme, ladder.entries
        else:
            scheme = str(ladder.provenance.get("scheme", "?"))
            like = tuple(
                Entry(row.configuration, row.stage_blocks, row.size_bytes, 0.0)
                for row in ladder.rows
            )
        entries = tuple(
            dataclasses.replace(entry, probability=float(probability))
            for entry, probability in zip(like, probabilities, strict=True)
        )
        return cls(scheme, entries, facts, provenance)

    def on(self, ladder: Ladder) -> tuple[float, ...]:
        """Returns the probabilities of a ladder's configurations, smallest first.

        An entry is that which keeps as many blocks of each stage: so a table that was swept at some
        depths only will do, and several precisions of one depth add up.

        Raises:
          ValueError: it is of another ladder: it has other stages, or an entry that the ladder
            lacks; names both.
        """
        if self.stage_sizes != ladder.stage_sizes:
            raise ValueError(
                f"the policy is of another ladder: its full model has {self.stage_sizes} blocks a "
                f"stage, the one to train {ladder.stage_sizes}; fit it with a table of this model"
            )
        indices = {ladder.stage_blocks(each): i for i, each in enumerate(ladder)}
        probabilities = [0.0] * len(ladder)
        for entry in self.entries:
            if entry.stage_blocks not in indices:
                raise ValueError(
                    f"the policy is of another ladder: {entry.name!r} keeps {entry.stage_blocks} "
                    f"blocks a stage, which no configuration of scheme {ladder.scheme!r} does; fit "
                    "it with a table of this scheme"
                )
            probabilities[indices[entry.stage_blocks]] += entry.probability
        return tuple(probabilities)

    def by_depth(self) -> dict[int, float]:
        """Returns the probability of each depth, in blocks, that has an entry."""
        weights: dict[int, float] = {}
        for entry in self.entries:
            depth = sum(entry.stage_blocks)
            weights[depth] = weights.get(depth, 0.0) + entry.probability
        return weights

    def to_json(self) -> str:
        """Returns the file's text."""
        document = {
            "format": FORMAT,
            "scheme": self.scheme,
            "configurations": [dataclasses.asdict(entry) for entry in self.entries],
            "facts": dict(self.facts),
            "provenance": dict(self.provenance),
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "PolicyFile":
        """Reads what `to_json` wrote.

        Args:
          text: of the file.
          source: its path, for errors.

        Raises:
          ValueError: it is none, or as the class; names the source and the field.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(
                f"{source} is no policy file (wanted 'format': {FORMAT!r}); python -m "
                "accordion_jax.policy link (or demand) writes one"
            )
        try:
            entries = tuple(_entry(each) for each in document["configurations"])
            parts = [document[name] for name in ("scheme", "facts", "provenance")]
            if not entries or [type(part) for part in parts] != [str, dict, dict]:
                raise TypeError
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{source} is damaged: wanted 'scheme', 'facts', 'provenance', and a list "
                "'configurations' of objects with 'name', 'stage_blocks', 'size_bytes' and "
                "'probability'"
            ) from error
        try:
            return cls(parts[0], entries, *parts[1:])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def write(self, path: str | os.PathLike) -> None:
        """Writes it, whole or not at all."""
        write_whole(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike) -> "PolicyFile":
        """Reads it.

        Raises:
          FileNotFoundError: there is none; names the path.
          ValueError: as `from_json`.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no policy file at {str(path)!r}; python -m accordion_jax.policy link (or demand) "
                "writes one"
            )
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no policy file: it is not UTF-8 text") from error

    @classmethod
    def read_all(cls, *paths: str | os.PathLike) -> "list[PolicyFile]":
        """Reads files that are all of one ladder.

        Raises:
          FileNotFoundError: as `read`.
          ValueError: as `from_json`, or one is of another ladder than the first; names both.
        """
        files = [cls.read(path) for path in paths]
        ladders = [[(entry.name, entry.stage_blocks) for entry in file.entries] for file in files]
        for path, ladder in zip(paths, ladders, strict=True):
            if ladder != ladders[0]:
                raise ValueError(
                    f"{path} is a policy of another ladder ({ladder[0][0]} to {ladder[-1][0]}) "
                    f"than {paths[0]} ({ladders[0][0][0]} to {ladders[0][-1][0]}); fit both with "
                    "one table"
                )
        return files


def _entry(each: Mapping[str, Any]) -> Entry:
    entry = Entry(**{**each, "stage_blocks": tuple(each["stage_blocks"])})
    counts = (*entry.stage_blocks, entry.size_bytes)
    if (
        not isinstance(entry.name, str)
        or any(type(count) is not int or count < 0 for count in counts)
        or type(entry.probability) not in (int, float)
    ):
        raise TypeError
    return entry


def check_distribution(probabilities: Sequence[float], whose: str) -> None:
    """Does nothing where they are a probability distribution.

    Raises:
      ValueError: one is negative or not finite, or they do not sum to 1 (within 1e-6).
    """
    for index, probability in enumerate(probabilities):
        if not (math.isfinite(probability) and probability >= 0):
            raise ValueError(
                f"probability {index} of {whose} is {probability}; every one must be finite and at "
                "least 0"
            )
    total = math.fsum(probabilities)
    if not total:
        raise ValueError(
            f"{whose}'s {len(probabilities)} probabilities sum to 0, not to 1; one at least must "
            "be positive"
        )
    if abs(total - 1) > 1e-6:
        raise ValueError(
            f"{whose}'s {len(probabilities)} probabilities sum to {total:.9g}, not to 1; divide "
            f"each by {total:.9g}"
        )


def file_digests(*paths: str | os.PathLike) -> dict[str, str]:
    """Returns the SHA-256 of files by their names: what a policy's provenance keeps of them."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in map(pathlib.Path, paths)
    }
