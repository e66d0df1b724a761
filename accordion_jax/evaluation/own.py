"""A sweep in which configurations run with statistics of their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from accordion_jax import data
from accordion_jax.depth import Ladder
from accordion_jax.evaluation.sweep import Counts, Sweep
from accordion_jax.models import Network


def sweep_own(
    model: Network,
    ladder: Ladder,
    dataset: data.Dataset,
    variables: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    shared: Counts,
    **options: Any,
) -> Counts:
    """Returns the counts of a ladder whose configurations run with their own statistics.

    Each of these takes a pass of its own: with other statistics it has nothing in common with the
    others.

    Args:
      model: Linen module.
      ladder: of the configurations that were swept.
      dataset: to measure on.
      variables: of the network, on the host.
      own: configuration -> unit -> statistics, as far as it has any, on the host.
      shared: counts of the ladder with the network's statistics; of those without own they stay.
      **options: of `Sweep`, as they were for `shared`.
    """
    errors, cross_entropy = np.copy(shared.errors), np.copy(shared.cross_entropy)
    for i, configuration in enumerate(ladder):
        if configuration.name not in own:
            continue
        statistics = {**variables["batch_stats"], **own[configuration.name]}
        counts = Sweep(model, (configuration.skip_mask,), dataset, **options)(
            data.replicate({**variables, "batch_stats": statistics})
        )
        errors[i], cross_entropy[i] = counts.errors[0], counts.cross_entropy[0]
    return Counts(shared.examples, errors, cross_entropy)


def statistics_facts(
    ladder: Ladder, shared: Counts, own_bytes: Mapping[str, int], batches: int
) -> dict[str, Any]:
    """Returns what a table's provenance says of own statistics, as JSON-able values.

    Args:
      ladder: of the configurations that were swept.
      shared: their counts without own statistics.
      own_bytes: configuration -> bytes of its own, of those that have any.
      batches: that they were measured on.
    """
    place = {configuration.name: i for i, configuration in enumerate(ladder)}
    return {
        "batches": batches,
        "own": {
            name: {
                "size_bytes": size_bytes,
                "shared_errors": int(shared.errors[place[name]]),
                "shared_cross_entropy": float(shared.cross_entropy[place[name]]),
            }
            for name, size_bytes in own_bytes.items()
        },
    }
