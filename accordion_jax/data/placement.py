"""Arrays on the devices, as compiled maps over all devices take them."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

AXIS = "batch"  # of every map over the devices


def to_global(tree: Any) -> Any:
    """Returns arrays that span the devices of all processes.

    `jax.pmap` returns arrays of this process's devices, with a leading axis of those; a program
    compiled ahead of time wants, and returns, arrays whose leading axis counts the devices of all
    processes. With one process the two are the same.

    Args:
      tree: of arrays with a leading axis of local devices.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.asarray(jax.devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec(AXIS))


def replicate(tree: Any) -> Any:
    """Returns the tree on every device, each array with a leading axis of devices."""
    local = np.zeros(jax.local_device_count(), np.int8)
    return to_global(jax.pmap(lambda x, _: x, axis_name=AXIS, in_axes=(None, 0))(tree, local))


def spread(tree: Any) -> Any:
    """Returns arrays with a leading axis of local devices, each part on its device."""
    return to_global(jax.pmap(lambda x: x, axis_name=AXIS)(tree))


def unreplicate(tree: Any) -> Any:
    """Returns the first local device's copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)
