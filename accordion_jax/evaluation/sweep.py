"""The sweep: every configuration of a ladder, measured in one pass over the examples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax import data
from accordion_jax.depth import Ladder, LookupTable, SkipMask, UnitCost, make_row
from accordion_jax.models import Network
from accordion_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a sweep counted, one entry a skip mask.

    Attributes:
      examples: how many answers were judged: one an image, several where a task asks for several.
      errors: [masks] int64, how many of them were wrong.
      cross_entropy: [masks] float64, mean loss in nats.
    """

    examples: int
    errors: np.ndarray
    cross_entropy: np.ndarray


class Sweep:
    """Counts the errors of many skip masks on a data set, on all devices.

    Masks share the blocks that they have in common (`Network.truncations`): all prefixes of a
    network cost one forward pass, and a pooling and a head each. Every example is counted once,
    those of the last, partial batch too.
    """

    def __init__(
        self,
        model: Network,
        skip_masks: tuple[SkipMask, ...],
        dataset: data.Dataset,
        *,
        batch_size: int = 500,
        examples: int = 0,
        compiler_options: dict[str, str | bool] | None = None,
    ):
        """Puts the data set on the devices; compiles at the first call.

        Args:
          model: Linen module.
          skip_masks: static, one a configuration.
          dataset: to measure on.
          batch_size: a device. The program of a device, and so its rounding, does not depend on how
            many there are, as long as the examples fill a batch on each; fewer are spread evenly.
          examples: only the first so many; 0 is all.
          compiler_options: of XLA.
        """
        self._examples = min(examples or len(dataset), len(dataset))
        used = dataset
        if self._examples < len(dataset):
            used = dataset.select(np.arange(self._examples))
        self._answers = used.targets.size
        devices, local = jax.device_count(), jax.local_device_count()
        batch_size = min(batch_size, -(-self._examples // devices))
        rounds = -(-self._examples // (batch_size * devices))
        # Example e goes to batch e // batch_size; each process keeps the batches of its devices.
        missing = rounds * devices * batch_size - self._examples
        first = jax.process_index() * local

        def lay_out(x: np.ndarray) -> np.ndarray:
            padded = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
            batches = padded.reshape(rounds, devices, batch_size, *x.shape[1:])
            return np.ascontiguousarray(batches[:, first : first + local].swapaxes(0, 1))

        counted = np.ones(used.targets.shape, np.bool_)
        self._batches = data.spread(jax.tree.map(lay_out, (used.rows, used.targets, counted)))
        self._steps = [data.spread(np.full(local, i, np.int32)) for i in range(rounds)]
        self._count = _counter(model, skip_masks, dataset.task)
        self._options = compiler_options
        self._compiled: Callable | None = None

    def __call__(self, variables: dict[str, Any]) -> Counts:
        """Returns the counts over all examples and devices, the same on every process.

        Args:
          variables: as `model.apply` takes them, every array with a leading axis of local devices
            (`data.replicate`).
        """
        if self._compiled is None:
            lowered = self._count.lower(variables, *self._batches, self._steps[0])  # type: ignore[attr-defined]
            self._compiled = lowered.compile(compiler_options=self._options)
        results = [self._compiled(variables, *self._batches, step) for step in self._steps]
        errors, sums = zip(*(data.unreplicate(result) for result in results), strict=True)
        return Counts(
            self._answers,
            np.asarray(errors, np.int64).sum(0),
            np.asarray(sums, np.float64).sum(0) / self._answers,
        )


def _counter(model: Network, skip_masks: tuple[SkipMask, ...], task: Task) -> Callable:
    """The mapped count of one batch a device, given the number of the batch.

    The inputs lie in rows, as in training: TPUs would turn all of them round for each batch.
    """

    def count(variables, rows, targets, counted, step):
        picked = jax.tree.map(
            lambda x, spec: x[step].reshape(x.shape[1], *spec.shape), rows, task.inputs
        )
        outputs: jax.Array = model.apply(
            variables, task.prepare(picked), skip_masks=skip_masks, method="truncations"
        )
        chex.assert_shape(outputs, (len(skip_masks), *targets.shape[1:], None))
        chex.assert_type(outputs, jnp.float32)
        wanted = jnp.broadcast_to(targets[step], (len(skip_masks), *targets.shape[1:]))
        valid = jnp.broadcast_to(counted[step], wanted.shape)
        losses = task.loss(outputs, wanted)
        over = tuple(range(1, wanted.ndim))
        errors = jnp.sum(task.wrong(outputs, wanted) & valid, axis=over, dtype=jnp.int32)
        sums = jnp.sum(jnp.where(valid, losses, 0.0), axis=over)
        return jax.lax.psum((errors, sums), data.AXIS)

    return jax.pmap(count, axis_name=data.AXIS)


def make_table(
    ladder: Ladder,
    counts: Counts,
    base: UnitCost,
    blocks: tuple[UnitCost, ...],
    provenance: dict[str, Any],
    own_bytes: Mapping[str, int] | None = None,
) -> LookupTable:
    """Returns the look-up table of a sweep over a ladder's configurations.

    Args:
      ladder: whose skip masks were swept, in its order.
      counts: of the sweep.
      base: cost of stem and head.
      blocks: cost of each block.
      provenance: JSON-able facts to keep with the table.
      own_bytes: configuration -> bytes of statistics of its own, of those that have any.
    """
    rows = tuple(
        make_row(
            ladder,
            configuration,
            base=base,
            blocks=blocks,
            examples=counts.examples,
            errors=int(errors),
            cross_entropy=float(cross_entropy),
            own_bytes=(own_bytes or {}).get(configuration.name, 0),
        )
        for configuration, errors, cross_entropy in zip(
            ladder, counts.errors, counts.cross_entropy, strict=True
        )
    )
    return LookupTable(rows, provenance)
