"""What a device holds of a model, and which configuration of it is in use."""

import math
import threading
from collections.abc import Sequence

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.depth import Row


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
        self._limits: tuple[float, float] = (math.inf, math.inf)  # depth, MACs

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
    def first_missing(self) -> str | None:
        """Digest of the first segment in sending order that is not held."""
        return next((s.sha256 for s in self.manifest.segments if s.sha256 not in self.held), None)

    @property
    def deepest(self) -> Configuration | None:
        """The deepest complete configuration."""
        return self.manifest.deepest_held(self.held)

    @property
    def in_use(self) -> Configuration | None:
        """The deepest complete configuration within what the device has stepped down to."""
        return next(iter(self.runnable()), None)

    def row(self, configuration: Configuration) -> Row:
        """The configuration's row in the look-up table."""
        return self.manifest.rows[configuration.name]

    def missing_of(self, configuration: Configuration) -> tuple[Segment, ...]:
        """What is missing of a configuration, in sending order; equal segments once."""
        needed = self.manifest.segments[: len(configuration.segments)]
        return tuple({s.sha256: s for s in needed if s.sha256 not in self.held}.values())

    def runnable(self) -> Sequence[Configuration]:
        """Complete configurations within what the device has stepped down to, deepest first."""
        deepest = self.deepest
        if deepest is None:
            return ()
        complete = self.manifest.ladder[: self.manifest.ladder.index(deepest) + 1]
        return tuple(c for c in reversed(complete) if self.allows(c))

    def allows(self, configuration: Configuration) -> bool:
        """Whether it is within what the device has stepped down to, complete or not."""
        max_depth, max_macs = self._limits
        row = self.row(configuration)
        return row.depth <= max_depth and row.macs <= max_macs

    def limit(self, *, depth: int | None = None, max_macs: int | None = None) -> None:
        """Bounds what may be in use; None takes a bound away."""
        self._limits = (
            math.inf if depth is None else depth,
            math.inf if max_macs is None else max_macs,
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
            held = "is complete" if self.deepest else "is not complete yet"
            raise ValueError(
                f"no complete configuration keeps depth={depth} blocks or max_macs={max_macs}: the "
                f"smallest, {row.configuration}, keeps {row.depth} blocks, needs {row.macs} "
                f"multiply-accumulates an image, and {held}"
            )
        return found
