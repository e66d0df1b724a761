"""Networks of `accordion_jax.models`, compiled by JAX: one program a configuration and batch size.

The only file of this room that imports JAX.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from accordion_jax import models
from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.parts import Configuration
from accordion_jax.delivery.bundle.variables import Loaded, load_segment, merged
from accordion_jax.delivery.errors import ModelError
from accordion_jax.delivery.runtimes.examples import count, part, share_wrong
from accordion_jax.depth import SkipMask
from accordion_jax.tasks import Spec, Task


class Network:
    """A network of any family, for any task; see `contract.Model`."""

    kinds = None

    def __init__(self, manifest: Manifest, task: Task):
        self.task = task
        self._manifest = manifest
        self._model = models.build(dict(manifest.model))
        self._programs: dict[Hashable, Callable] = {}

    def load(self, name: str, content: bytes, refined: Loaded | None = None) -> Loaded:
        """Returns the variables of a segment's unit, in the memory of JAX's device.

        They are float32 whatever was sent; beside them stay the integers that a refinement adds to.

        Raises:
          BundleError: as `load_segment`.
        """
        loaded = load_segment(self._manifest, name, content, refined)
        return dataclasses.replace(loaded, variables=jax.device_put(loaded.variables))

    def compile(
        self, configuration: Configuration, segments: Sequence[Any], batch_size: int
    ) -> Callable[[Any], np.ndarray]:
        """Returns the compiled program of a configuration, its variables bound to it.

        A program is that of a skip mask: the same blocks in more bits need no other one.

        Raises:
          ModelError: the segments are not of the network that the manifest describes, or it does
            not take such inputs.
          BundleError: own statistics are not those of these segments.
        """
        variables = merged(segments)
        program = self._program(configuration.skip_mask, variables, batch_size)
        return lambda batch: np.asarray(program(variables, batch))

    def _program(
        self, skip_mask: SkipMask, variables: dict[str, Any], batch_size: int
    ) -> Callable[..., Any]:
        leaves, tree = jax.tree.flatten(variables)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        key = skip_mask, batch_size, tree, shapes
        if key in self._programs:
            return self._programs[key]
        examples = jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct((batch_size, *spec.shape), spec.dtype),
            self.task.inputs,
            is_leaf=lambda node: isinstance(node, Spec),
        )
        forward = functools.partial(self._model.apply, skip_mask=skip_mask)
        try:
            prepared = jax.eval_shape(self.task.prepare, examples)
            lowered = jax.jit(forward).lower(variables, prepared)
        # A family may raise what it likes at arrays of other shapes, or another number of blocks.
        except Exception as error:
            raise ModelError(
                f"its segments do not make the network that the manifest describes: {error}. Write "
                "the bundle again"
            ) from error
        self._programs[key] = lowered.compile()
        return self._programs[key]


def error_rate(
    manifest: Manifest,
    variables: Mapping[str, Any],
    inputs: Any,
    targets: np.ndarray,
    *,
    batch_size: int = 250,
) -> float:
    """Returns the full model's share of wrong answers, 0 to 1: the mean over all answers.

    Args:
      manifest: says which network, and of which task.
      variables: of the full model.
      inputs: [n, ...], as the task's inputs are.
      targets: [n], or [n, ...] where an example has several answers; integers.
      batch_size: examples at a time.

    Raises:
      ModelError: as `runtimes.make`, or it is no network's manifest.
      ValueError: inputs or targets are not of the task, or there are none.
    """
    network = runtimes.make(manifest)
    if not isinstance(network, Network):
        raise ModelError(f"the manifest describes no network, but {manifest.model['family']!a}")
    compiled: dict[int, Callable[[Any], np.ndarray]] = {}
    outputs = []
    for start in range(0, count(inputs), batch_size):
        batch = network.task.prepare(part(inputs, start, start + batch_size))
        size = count(batch)
        if size not in compiled:
            loaded = [Loaded(dict(variables), None)]
            compiled[size] = network.compile(manifest.ladder[-1], loaded, size)
        outputs.append(compiled[size](batch))
    if not outputs:
        raise ValueError(f"no {network.task.input_name} are given, so no answer can be judged")
    return share_wrong(network.task, np.concatenate(outputs), targets)
