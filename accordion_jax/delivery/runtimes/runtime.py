"""Predictions from the moment the base is in, by the best configuration held.

A configuration that has just become complete is loaded and compiled in a background thread, and
then replaces the one in use by a single assignment: a prediction never waits for it, and each
prediction is wholly of one configuration. Compiled configurations are kept, so stepping down to one
is immediate.

What "compile" means is for the runtime that the manifest asks for; here is what all have in common.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.events import Event
from accordion_jax.delivery.errors import DeliveryError, SegmentError
from accordion_jax.delivery.runtimes.examples import count


class Prediction(NamedTuple):
    """What the model said of a batch, and which model that was.

    Attributes:
      outputs: [batch, ...] of the model: logits or scores, [batch, classes], for one answer an
        example.
      configuration: name of the one that computed them.
      expected_error: its share of wrong answers, from the look-up table.
    """

    outputs: np.ndarray
    configuration: str
    expected_error: float


class Runtime:
    """Runs the model of a device by the best configuration that is complete.

    Args:
      device: connected. Its step downs are followed at once.
      batch_sizes: to compile for ahead. Another size is compiled when it is first asked for, and
        ahead from then on.
      on_swap: is called with this object and the configuration that came into use, in the thread
        that did it.

    Attributes:
      task: of the model: what inputs it takes, and when an answer is wrong.
      problems: what went wrong in the background, for a person.

    Raises:
      ModelError: as `runtimes.make`.
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
        self._model = runtimes.make(self.manifest)
        self.task = self._model.task
        self.problems: list[str] = []
        self._on_swap = on_swap
        self._batch_sizes = frozenset(batch_sizes)
        self._segments: dict[str, Any] = {}
        self._compiled: dict[tuple[str, int], Callable[[Any], np.ndarray]] = {}
        self._failed: set[str] = set()
        ladder, ranking = self.manifest.ladder, self.manifest.sets.ranking
        self._ranks = {ladder[i].name: rank for rank, i in enumerate(ranking)}
        self._current: Configuration | None = None
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
        return self._current

    def predict(self, inputs: Any) -> Prediction:
        """Returns the outputs of a batch.

        Args:
          inputs: [batch, ...], as ``task.inputs`` says: uint8 [batch, height, width, colours] for
            images.

        Raises:
          DeliveryError: no configuration is ready yet; `wait` for one.
          ValueError: the inputs are not of the model's task; says what is wanted.
        """
        if self._current is None:
            hint = f"; {self.problems[-1]}" if self.problems else "; call wait() first"
            raise DeliveryError(f"no configuration is complete and compiled yet{hint}")
        self.task.check(inputs)
        batch_size = count(inputs)
        with self._swapping:  # for as long as it takes to look: one may be forgotten otherwise
            configuration = self._current
            compiled = self._compiled.get((configuration.name, batch_size))
        if compiled is None:
            self._batch_sizes |= {batch_size}
            self._wake.set()
            compiled = self._compile(configuration, batch_size)
        outputs = compiled(self.task.prepare(inputs))
        row = self.manifest.rows[configuration.name]
        return Prediction(outputs, configuration.name, row.top1_error)

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
                    for size in sorted(self._batch_sizes):
                        self._compile(due, size)
                    self._swap()
                except SegmentError as error:
                    self.problems.append(str(error))
                    self._forget_damaged(due)
                except Exception as error:  # Whatever it is, predictions go on as they are.
                    why = str(error) if isinstance(error, DeliveryError) else repr(error)
                    self.problems.append(f"{due.name} cannot be run: {why}")
                    self._failed.add(due.name)  # last: whoever sees it finds the reason
            if self._closing:
                return

    def _due(self) -> Configuration | None:
        """The configuration to prepare next, if any."""
        holding = self.device.holding
        if holding.manifest is not self.manifest:
            return None  # a newer version has taken over, which is for another runtime
        runnable = [c for c in holding.runnable() if c.name not in self._failed]
        if not runnable:
            return None
        # The smallest first, which is quickest to trace and compile; then straight to the best.
        smallest = min(runnable, key=self.manifest.ladder.index)
        due, current = (runnable[0] if self._current else smallest), self._current
        if self._is_compiled(due):
            return None
        if current and holding.allows(current) and self._rank(current) < self._rank(due):
            return None
        return due

    def _rank(self, configuration: Configuration) -> int:
        """0 is the best."""
        return self._ranks[configuration.name]

    def _is_compiled(self, configuration: Configuration) -> bool:
        return all((configuration.name, size) in self._compiled for size in self._batch_sizes)

    def _compile(
        self, configuration: Configuration, batch_size: int
    ) -> Callable[[Any], np.ndarray]:
        key = configuration.name, batch_size
        if key not in self._compiled:
            segments = [self._segment(name) for name in self.manifest.finest(configuration)]
            self._compiled[key] = self._model.compile(configuration, segments, batch_size)
        return self._compiled[key]

    def _swap(self) -> None:
        """Puts the best configuration in use that is compiled and allowed."""
        holding = self.device.holding
        if holding.manifest is not self.manifest:
            return
        with self._swapping:
            ready = [
                configuration
                for configuration in self.manifest.ladder
                if self._is_compiled(configuration) and holding.allows(configuration)
            ]
            best = min(ready, key=self._rank, default=None)
            if best is None or best == self._current:
                return
            self._current = best
            self._forget_coarser(best)
            self._swapping.notify_all()
        if self._on_swap:
            self._on_swap(self, best)

    def _forget_coarser(self, best: Configuration) -> None:
        """Frees what has fewer bits of the same blocks: no step down would lead back to it."""
        manifest, needed = self.manifest, set(best.segments)
        for name, size in list(self._compiled):
            other = manifest.configurations[name]
            if other.skip_mask == best.skip_mask and set(other.segments) < needed:
                del self._compiled[name, size]
        known = {name for name, _ in list(self._compiled)}
        used = {each for n in known for each in manifest.finest(manifest.configurations[n])}
        for name in needed - used:
            self._segments.pop(name, None)

    def _segment(self, name: str) -> Any:
        """A segment in the model's own form; each is loaded once, as long as it is of use."""
        loaded = self._segments.get(name)
        if loaded is None:
            segment = self.manifest.by_name[name]
            refined = self._segment(segment.refines) if segment.refines else None
            content = self.device.cache.read(segment.sha256)
            loaded = self._segments[name] = self._model.load(name, content, refined)
        return loaded

    def _forget_damaged(self, configuration: Configuration) -> None:
        for name in configuration.segments:
            sha256 = self.manifest.by_name[name].sha256
            if name not in self._segments and not self.device.cache.verify(sha256):
                self.device.forget(sha256)
