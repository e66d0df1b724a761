"""What a device holds of a model, and which configuration of it is in use."""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.depth import Row


class _Limits(NamedTuple):
    depth: float = math.inf
    macs: float = math.inf
    memory_bytes: float = math.inf


class Holding:
    """Segments held of one model, and how far the device has stepped down.

    Any thread may read it and change it: each change replaces one immutable value.

    Args:
      manifest: of the model.
      held: digests of segments that are on the disk and checked.
    """

    def __init__(self, manifest: Manifest, held: frozenset[str]):
        self.manifest = manifest
        self._held = held
        self._changing = threading.Lock()
        self._limits = _Limits()
        # What is complete of what is held, the best first: asked for with each chunk that comes.
        self._complete: tuple[frozenset[str], tuple[Configuration, ...]] | None = None

    @property
    def held(self) -> frozenset[str]:
        """Digests of the segments that are on the disk and checked."""
        return self._held

    def add(self, sha256: str) -> None:
        """A segment has arrived and was checked."""
        with self._changing:
            self._held |= {sha256}

    def remove(self, sha256: str) -> None:
        """A segment turned out to be damaged."""
        with self._changing:
            self._held -= {sha256}

    @property
    def size_bytes(self) -> int:
        """Wire bytes of the held segments."""
        return sum(s.size_bytes for s in self.manifest.by_sha256.values() if s.sha256 in self.held)

    @property
    def missing_bytes(self) -> int:
        """Wire bytes of the full model that are not held."""
        return sum(s.size_bytes for s in self.missing_of(self.manifest.ladder[-1]))

    @property
    def first_missing(self) -> str | None:
        """Digest of the first segment in sending order that is not held."""
        return next((s.sha256 for s in self.manifest.segments if s.sha256 not in self.held), None)

    @property
    def complete(self) -> tuple[Configuration, ...]:
        """The configurations of which all is held, the best first."""
        held, known = self._held, self._complete
        if known is None or known[0] is not held:
            known = self._complete = held, self.manifest.complete(held)
        return known[1]

    @property
    def in_use(self) -> Configuration | None:
        """The best complete configuration within what the device has stepped down to."""
        return next(iter(self.runnable()), None)

    def row(self, configuration: Configuration) -> Row:
        """The configuration's row in the look-up table."""
        return self.manifest.rows[configuration.name]

    def missing_of(self, configuration: Configuration) -> tuple[Segment, ...]:
        """What is missing of a configuration, in sending order; equal segments once."""
        needed = (self.manifest.by_name[name] for name in configuration.segments)
        return tuple({s.sha256: s for s in needed if s.sha256 not in self.held}.values())

    def runnable(self) -> Sequence[Configuration]:
        """Complete configurations within what the device has stepped down to, the best first."""
        return tuple(c for c in self.complete if self.allows(c))

    def allows(self, configuration: Configuration) -> bool:
        """Whether it is within what the device has stepped down to, complete or not."""
        limits, row = self._limits, self.row(configuration)
        return (
            row.depth <= limits.depth
            and row.macs <= limits.macs
            and self.manifest.memory_bytes(configuration) <= limits.memory_bytes
        )

    def limit(
        self,
        *,
        depth: int | None = None,
        max_macs: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Bounds what may be in use; None takes a bound away."""
        self._limits = _Limits(
            *(math.inf if each is None else each for each in (depth, max_macs, max_memory_bytes))
        )

    def step_down(self, *, depth: int | None, max_macs: int | None) -> Configuration:
        """Bounds what may be in use, and returns the configuration that then is.

        Raises:
          ValueError: neither bound is given, or no complete configuration is within them; names
            the smallest. The bounds stay as they were.
        """
        if depth is None and max_macs is None:
            raise ValueError("give depth or max_macs to step down to; got neither")
        before = self._limits
        self.limit(depth=depth, max_macs=max_macs)
        found = self.in_use
        if found is None:
            self._limits = before
            row = self.manifest.table.rows[0]
            smallest = self.manifest.ladder[0]
            held = "is complete" if smallest in self.complete else "is not complete yet"
            raise ValueError(
                f"no complete configuration keeps depth={depth} blocks or max_macs={max_macs}: the "
                f"smallest, {row.configuration}, keeps {row.depth} blocks, needs {row.macs} "
                f"multiply-accumulates an image, and {held}"
            )
        return found
