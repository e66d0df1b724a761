"""Bundles of small ResNets that were not trained, with tables of their true sizes."""

import jax
import numpy as np

from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.encoding import Measured, encoded_parts
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.ordering import blockwise, rungs_of, uniform
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row
from accordion_jax.models import ResNet, describe

INPUT = {"shape": [8, 8, 3], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def make_resnet(scheme="coml", stage_sizes=(1, 1, 1), channels=(16, 32, 64), seed=0):
    """(model, variables, ladder, table): random weights and random running statistics."""
    model = ResNet(10, stage_sizes, channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *INPUT["shape"]), "f4"))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda s: (np.abs(rng.normal(size=s.shape)) * 0.2 + 0.05).astype(s.dtype), shapes
    )
    macs = model.unit_macs(tuple(INPUT["shape"]))
    ladder = make_ladder(scheme, stage_sizes)

    def cost(*units):
        leaves = jax.tree.leaves(
            [{u: tree.get(u, {}) for u in units} for tree in variables.values()]
        )
        return UnitCost(
            sum(x.size for x in leaves), sum(x.nbytes for x in leaves), sum(macs[u] for u in units)
        )

    rows = tuple(
        make_row(
            ladder,
            configuration,
            base=cost(*model.base_names),
            blocks=tuple(cost(name) for name in model.block_names),
            examples=1000,
            errors=round(900 * 0.8**configuration.depth),
            cross_entropy=1.0,
        )
        for configuration in ladder
    )
    return model, variables, ladder, LookupTable(rows, {"scheme": scheme})


def write_resnet(folder, scheme="coml", **kwargs):
    """(bundle's folder, model, variables)."""
    model, variables, ladder, table = make_resnet(scheme, **kwargs)
    parts = bundle_parts(
        variables,
        base_names=model.base_names,
        block_names=model.block_names,
        description=describe(model) | {"input": INPUT, "classes": None},
        ladder=ladder,
        table=table,
    )
    return write_bundle(folder, **parts), model, variables


def make_chained_parts(scheme="coml", bits=(4, 8), **kwargs):
    """(arguments of `write_bundle`, model, chains): the same in steps of bits, errors made up."""
    model, variables, ladder, table = make_resnet(scheme, **kwargs)
    chains = Chains(
        fold_norms(variables),
        base_names=model.base_names,
        block_names=model.block_names,
        bits=bits,
    )
    order = blockwise(ladder, model.block_names, len(bits))
    rungs = rungs_of(order, ladder, model.block_names)
    rungs += uniform(ladder, model.block_names, len(bits) - 1)
    parts = encoded_parts(
        chains,
        order,
        # The more bytes, the better.
        [(rung, Measured(1000, 900 - 9 * len(rung.items), 1.0)) for rung in rungs],
        description=describe(model) | {"input": INPUT, "classes": None},
        table=table,
        facts={"bits": list(bits)},
    )
    return parts, model, chains


def write_chained(folder, scheme="coml", bits=(4, 8), **kwargs):
    """(bundle's folder, model, chains)."""
    parts, model, chains = make_chained_parts(scheme, bits, **kwargs)
    return write_bundle(folder, **parts), model, chains


def make_images(count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *INPUT["shape"]), dtype=np.uint8)
