"""Predictions with JAX, from the moment the base is in, at the deepest configuration held.

A configuration that has just become complete is loaded and compiled in a background thread, and
then replaces the one in use by a single assignment: a prediction never waits for it, and each
prediction is wholly of one configuration. Compiled configurations are kept, so stepping down to one
is immediate.

The only file of this room that imports JAX.
"""

import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from accordion_jax import models
from accordion_jax.delivery.bundle.manifest import Configuration, Manifest
from accordion_jax.delivery.bundle.variables import load_segment, normalise
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.events import Event
from accordion_jax.delivery.errors import DeliveryError, SegmentError


class Prediction(NamedTuple):
    """What the model said of a batch, and which model that was.

    Attributes:
      logits: [batch, num_classes] float32.
      configuration: name of the one that computed them.
      expected_error: its top-1 error, from the look-up table.
    """

    logits: np.ndarray
    configuration: str
    expected_error: float


class Runtime:
    """Runs the model of a device at the deepest configuration that is complete.

    Args:
      device: connected. Its step downs are followed at once.
      batch_sizes: to compile for ahead. Another size is compiled when it is first asked for, and
        ahead from then on.
      on_swap: is called with this object and the configuration that came into use, in the thread
        that did it.

    Attributes:
      problems: what went wrong in the background, for a person.

    Raises:
      ValueError: the model's family or its arguments are not known here.
    """

    def __init__(
        self,
        device: Device,
        *,
        batch_sizes: Sequence[int] = (1,),
        on_swap: "Callable[[Runtime, Configuration], None] | None" = None,
    ):
        self.device = device
        self.manifest = device.manifest
        self.model = models.build(dict(self.manifest.model))
        self.problems: list[str] = []
        self._on_swap = on_swap
        self._batch_sizes = frozenset(batch_sizes)
        self._segments: dict[str, dict[str, Any]] = {}
        self._compiled: dict[tuple[str, int], Callable] = {}
        self._failed: set[str] = set()
        # (configuration, its variables): replaced as one.
        self._current: tuple[Configuration, dict[str, Any]] | None = None
        self._swapping = threading.Condition(threading.RLock())
        self._wake = threading.Event()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="compile", daemon=True)
        device.add_listener(self._notice)
        self._wake.set()
        self._worker.start()

    @property
    def configuration(self) -> Configuration | None:
        """The one that predictions are made with now; None until the first is ready."""
        return self._current[0] if self._current else None

    def predict(self, images: np.ndarray) -> Prediction:
        """Returns the logits of a batch.

        Args:
          images: [batch, height, width, colours] uint8.

        Raises:
          DeliveryError: no configuration is ready yet; `wait` for one.
          ValueError: as `normalise`.
        """
        current = self._current
        if current is None:
            raise DeliveryError("no configuration is complete and compiled yet; call wait() first")
        configuration, variables = current
        batch = normalise(images, self.manifest.model)
        compiled = self._compiled.get((configuration.name, len(batch)))
        if compiled is None:
            self._batch_sizes |= {len(batch)}
            self._wake.set()
            compiled = self._compile(configuration, variables, len(batch))
        logits = np.asarray(compiled(variables, batch))
        row = self.manifest.rows[configuration.name]
        return Prediction(logits, configuration.name, row.top1_error)

    def wait(self, timeout_s: float | None = None, *, configuration: str | None = None) -> bool:
        """Returns whether predictions can be made within the time; None waits for ever.

        Args:
          timeout_s: seconds.
          configuration: name of the one to wait for; None is content with any.
        """

        def ready() -> bool:
            name = self.configuration.name if self.configuration else None
            return name is not None and configuration in (None, name)

        with self._swapping:
            return self._swapping.wait_for(ready, timeout_s)

    def close(self) -> None:
        """Ends the background thread, after the compilation that it is in."""
        self._closing = True
        self._wake.set()
        self._worker.join()

    def _notice(self, event: Event) -> None:
        if event.kind in ("segment", "use") and not self._closing:
            # Here, and not in the background thread: that may be busy compiling.
            self._swap()
            self._wake.set()

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while not self._closing and (due := self._due()) is not None:
                try:
                    self._prepare(due)
                except SegmentError as error:
                    self.problems.append(str(error))
                    self._forget_damaged(due)
                except Exception as error:  # Whatever it is, predictions go on as they are.
                    self._failed.add(due.name)
                    self.problems.append(f"{due.name} cannot be run: {error!r}")
            if self._closing:
                return

    def _due(self) -> Configuration | None:
        """The configuration to prepare next, if any."""
        runnable = [c for c in self.device.holding.runnable() if c.name not in self._failed]
        if not runnable:
            return None
        # The smallest first, which is quickest to trace and compile; then straight to the deepest.
        due = runnable[0] if self._current else runnable[-1]
        if self._is_compiled(due):
            return None
        current = self.configuration
        if current and self.device.holding.allows(current) and self._deeper(current, due):
            return None
        return due

    def _deeper(self, one: Configuration, other: Configuration) -> bool:
        return len(one.segments) > len(other.segments)

    def _is_compiled(self, configuration: Configuration) -> bool:
        return all((configuration.name, size) in self._compiled for size in self._batch_sizes)

    def _prepare(self, configuration: Configuration) -> None:
        variables = self._variables(configuration)
        for size in sorted(self._batch_sizes):
            self._compile(configuration, variables, size)
        self._swap()

    def _compile(
        self, configuration: Configuration, variables: dict[str, Any], batch_size: int
    ) -> Callable:
        key = configuration.name, batch_size
        if key not in self._compiled:
            shape = (batch_size, *self.manifest.model["input"]["shape"])
            forward = functools.partial(self.model.apply, skip_mask=configuration.skip_mask)
            lowered = jax.jit(forward).lower(variables, jax.ShapeDtypeStruct(shape, np.float32))
            self._compiled[key] = lowered.compile()
        return self._compiled[key]

    def _swap(self) -> None:
        """Puts the deepest configuration in use that is compiled and allowed."""
        with self._swapping:
            before = self.configuration
            ready = [
                configuration
                for configuration in self.manifest.ladder
                if self._is_compiled(configuration) and self.device.holding.allows(configuration)
            ]
            if not ready or ready[-1] == before:
                return
            # Compiled before, so loaded before: from memory.
            self._current = ready[-1], self._variables(ready[-1])
            self._swapping.notify_all()
        if self._on_swap:
            self._on_swap(self, ready[-1])

    def _variables(self, configuration: Configuration) -> dict[str, Any]:
        """The configuration's variables on the device; each segment is loaded once."""
        variables: dict[str, Any] = {}
        for name in configuration.segments:
            if name not in self._segments:
                content = self.device.cache.read(self.manifest.by_name[name].sha256)
                self._segments[name] = jax.device_put(load_segment(self.manifest, name, content))
            for collection, units in self._segments[name].items():
                variables.setdefault(collection, {}).update(units)
        return variables

    def _forget_damaged(self, configuration: Configuration) -> None:
        for name in configuration.segments:
            sha256 = self.manifest.by_name[name].sha256
            if name not in self._segments and not self.device.cache.verify(sha256):
                self.device.forget(sha256)


def top1_error(
    manifest: Manifest,
    variables: Mapping[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = 250,
) -> float:
    """Returns the full model's share of wrongly classified images, 0 to 1.

    Args:
      manifest: says which network.
      variables: of the full model.
      images: [n, height, width, colours] uint8.
      labels: [n] integers.
      batch_size: images at a time.
    """
    apply = jax.jit(models.build(dict(manifest.model)).apply)
    wrong = 0
    for start in range(0, len(images), batch_size):
        batch = normalise(images[start : start + batch_size], manifest.model)
        logits = np.asarray(apply(variables, batch))
        wrong += int(np.sum(logits.argmax(-1) != labels[start : start + batch_size]))
    return wrong / len(images) if len(images) else math.nan
