"""The sweep: every configuration of a ladder, measured in one pass over the examples."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from accordion_jax import data
from accordion_jax.depth import Ladder, LookupTable, SkipMask, UnitCost, make_row
from accordion_jax.models import ResNet


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a sweep counted, one entry a skip mask.

    Attributes:
      examples: how many images were seen.
      errors: [masks] int64, how many of them were wrong (top-1).
      cross_entropy: [masks] float64, mean in nats.
    """

    examples: int
    errors: np.ndarray
    cross_entropy: np.ndarray


class Sweep:
    """Counts the errors of many skip masks on a data set, on all devices.

    Masks share the blocks that they have in common (`ResNet.truncations`): all prefixes of a
    network cost one forward pass, and a pooling and a head each. Every example is counted once,
    those of the last, partial batch too.
    """

    def __init__(
        self,
        model: ResNet,
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
        images, labels = dataset.rows[: self._examples], dataset.labels[: self._examples]
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

        counted = np.ones(self._examples, np.bool_)
        self._batches = data.spread([lay_out(x) for x in (images, labels, counted)])
        self._steps = [data.spread(np.full(local, i, np.int32)) for i in range(rounds)]
        self._count = _counter(model, skip_masks, dataset)
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
            self._examples,
            np.asarray(errors, np.int64).sum(0),
            np.asarray(sums, np.float64).sum(0) / self._examples,
        )


def _counter(model: ResNet, skip_masks: tuple[SkipMask, ...], dataset: data.Dataset) -> Callable:
    """The mapped count of one batch a device, given the number of the batch.

    The images lie in rows, as in training: TPUs would turn all of them round for each batch.
    """
    image_shape, mean, std = dataset.images.shape[1:], dataset.mean, dataset.std

    def count(variables, rows, labels, counted, step):
        images = rows[step]
        x = data.normalise(images.reshape(len(images), *image_shape), mean, std)
        logits: jax.Array = model.apply(  # type: ignore[assignment]
            variables, x, skip_masks=skip_masks, method="truncations"
        )
        targets = jnp.broadcast_to(labels[step], logits.shape[:2])
        valid = jnp.broadcast_to(counted[step], logits.shape[:2])
        wrong = jnp.argmax(logits, -1) != targets
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        errors = jnp.sum(wrong & valid, axis=1, dtype=jnp.int32)
        sums = jnp.sum(jnp.where(valid, losses, 0.0), axis=1)
        return jax.lax.psum((errors, sums), data.AXIS)

    return jax.pmap(count, axis_name=data.AXIS)


def make_table(
    ladder: Ladder,
    counts: Counts,
    base: UnitCost,
    blocks: tuple[UnitCost, ...],
    provenance: dict[str, Any],
) -> LookupTable:
    """Returns the look-up table of a sweep over a ladder's configurations.

    Args:
      ladder: whose skip masks were swept, in its order.
      counts: of the sweep.
      base: cost of stem and head.
      blocks: cost of each block.
      provenance: JSON-able facts to keep with the table.
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
        )
        for configuration, errors, cross_entropy in zip(
            ladder, counts.errors, counts.cross_entropy, strict=True
        )
    )
    return LookupTable(rows, provenance)
