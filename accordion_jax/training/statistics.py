"""Batch-norm statistics of one configuration, measured after training.

All configurations of a run share the running statistics of a block. Where a block sees other inputs
in another configuration, as in BlockCoML, those of one are not those of the mean of all (Yu et al.
2019, arXiv:1812.08928, keep a set for each; Yu and Huang 2019, arXiv:1903.05134, measure them after
training, as here).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from accordion_jax import data
from accordion_jax.depth import SkipMask
from accordion_jax.training.experiment import Experiment
from accordion_jax.training.objective import single
from accordion_jax.training.state import Tree
from accordion_jax.training.together import Together
from accordion_jax.training.variants import Variants, compiler_options

# What is left of the shared statistics is 0.9 to this power: two thousandths.
STEPS = 60


def own_statistics(
    experiment: Experiment, variables: dict[str, Tree], skip_mask: SkipMask, steps: int = STEPS
) -> dict[str, Tree]:
    """Returns the running statistics of a configuration by itself; the weights stay as they are.

    They are of training batches, cropped and flipped as in training: the padding of the crops is in
    the shared ones too, and the network expects it. A step of training with a learning rate of zero
    is all that it takes, so that they are those that training this configuration alone would keep.

    Args:
      experiment: of the run.
      variables: {"params": ..., "batch_stats": ...} of the run, on the host.
      skip_mask: static; of the configuration.
      steps: of the run's batch size, over the first batches of an order that its seed gives.

    Returns:
      Unit -> statistics, NumPy, of the kept units that have any.
    """
    config = experiment.config.copy_and_resolve_references()
    config.train.start_from = ""  # the weights are here
    quiet = dataclasses.replace(experiment, config=config, learning_rate=jnp.zeros_like)
    together, draw = Together([quiet]), single(skip_mask)
    start = quiet.init()._replace(
        params=variables["params"], batch_stats=variables.get("batch_stats", {})
    )
    state = together.place([start]).keep(quiet.units(draw))
    train = quiet.train
    rows, targets, key = data.replicate((train.rows, train.targets, together.key))
    epoch_order = together.mapped_epoch_order()
    order = epoch_order(state.step, key)
    # A copy to compile for: a step is given the state itself, which is gone after it.
    like = jax.pmap(lambda tree: jax.tree.map(jnp.copy, tree), axis_name=data.AXIS)(state)
    variants = Variants(
        lambda draw: (together.mapped_step(draw), (like, order, rows, targets, key)),
        compiler_options(),
    )
    step = variants(draw)
    for taken in range(1, steps + 1):
        state, metrics = step(state, order, rows, targets, key)
        # Virtual devices share few cores: with many steps in the queue one may wait for another
        # for longer than XLA allows.
        jax.block_until_ready(metrics)
        if taken % quiet.steps_per_epoch == 0:
            order = epoch_order(state.step, key)
    (found,) = together.fetch(state)
    return jax.tree.map(np.asarray, found.batch_stats)
