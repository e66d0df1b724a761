"""Predictions for a person: the model runs on a file of examples while it arrives."""

import numpy as np

from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.device.device import Device
from accordion_jax.delivery.device.events import Event
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.runtimes import make
from accordion_jax.delivery.runtimes.examples import (
    count,
    part,
    random_examples,
    read_examples,
    share_wrong,
)
from accordion_jax.delivery.runtimes.runtime import Runtime

_BATCH_SIZE = 250
_RANDOM_EXAMPLES = 16
_SHOWN = 10


class Predictor:
    """Runs a device's model on examples from the moment that its base is in.

    Args:
      device: connected.
      source: file of examples, as `read_examples`; or ``random``.
      start_s: moment of the request, by the device's clock.

    Raises:
      ModelError: the model cannot be run here.
      FileNotFoundError: there is no such file.
      ValueError: what it holds is not of the model's task.
    """

    def __init__(self, device: Device, source: str, start_s: float):
        task = make(device.manifest).task
        if source == "random":
            self._inputs, self._targets = random_examples(task, _RANDOM_EXAMPLES), None
        else:
            self._inputs, self._targets = read_examples(source, task)
        self._count = count(self._inputs)
        self._batch_size = min(self._count, _BATCH_SIZE)
        self._device, self._start_s = device, start_s
        self._first = ""
        self._runtimes = [self._run()]
        self._problems: list[str] = []
        device.add_listener(self._follow)

    def _run(self) -> Runtime:
        return Runtime(self._device, batch_sizes=(self._batch_size,), on_swap=self._on_swap)

    def _follow(self, event: Event) -> None:
        """Runs a newer version from the moment that it takes over."""
        if event.kind == "model":
            try:
                self._runtimes.append(self._run())
            except (DeliveryError, ValueError) as error:
                self._problems.append(f"the newer version cannot be run: {error}")

    def _on_swap(self, runtime: Runtime, configuration: Configuration) -> None:
        if not self._first:
            runtime.predict(part(self._inputs, 0, self._batch_size))
            seconds = self._device.clock.now() - self._start_s
            self._first = f"{seconds:.2f} s after the request, by {configuration.name}"

    def finish(self) -> str:
        """Predicts all examples at the depth in use, and returns how that went.

        In letters that any terminal takes: what names and messages have besides is escaped.

        Raises:
          ValueError: there is not one target an answer.
        """
        try:
            # As in a literal, but for the quotes around it.
            return "\n".join(ascii(line)[1:-1] for line in self._report())
        finally:
            for runtime in self._runtimes:
                runtime.close()

    def _report(self) -> list[str]:
        runtime, in_use = self._runtimes[-1], self._device.in_use
        if in_use is None:
            return ["predictions  none yet"]
        while not runtime.wait(0.2, configuration=in_use.name):
            if runtime.problems or self._problems:
                break
        found = (*self._problems, *runtime.problems)
        problems = [f"problem      {problem}" for problem in found]
        if runtime.configuration is None:
            return ["predictions  none: no configuration can be run", *problems]
        batches = [
            runtime.predict(part(self._inputs, start, start + self._batch_size))
            for start in range(0, self._count, self._batch_size)
        ]
        outputs = np.concatenate([batch.outputs for batch in batches])
        answers = outputs.argmax(-1).ravel()
        rest = " ..." if len(answers) > _SHOWN else ""
        lines = [
            f"first        prediction {self._first}",
            f"predictions  {len(answers)} by {batches[-1].configuration}: "
            f"{' '.join(map(str, answers[:_SHOWN]))}{rest}",
        ]
        if self._targets is not None:
            wrong = share_wrong(runtime.task, outputs, self._targets)
            lines.append(
                f"measured     error {wrong:.4f} on these {self._count} "
                f"{runtime.task.example_name}s"
            )
        return lines + problems
