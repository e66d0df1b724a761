"""Bundles of small ResNets that were not trained, with tables of their true sizes."""

import jax
import numpy as np

from accordion_jax.delivery.bundle.cutting import bundle_parts, own_piece
from accordion_jax.delivery.bundle.encoding import Measured, encoded_parts
from accordion_jax.delivery.bundle.folding import fold_norms, fold_statistics
from accordion_jax.delivery.bundle.ordering import blockwise, rungs_of, uniform
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row
from accordion_jax.models import ResNet, describe
from accordion_jax.models.costs import unit_costs
from accordion_jax.training.kept_statistics import own_units, size_bytes

INPUT = {"shape": [8, 8, 3], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def make_resnet(
    scheme="coml", stage_sizes=(1, 1, 1), channels=(16, 32, 64), seed=0, own_heads=False
):
    """(model, variables, ladder, table): random weights and random running statistics."""
    model = ResNet(10, stage_sizes, channels, own_heads)
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


def make_own(model, variables, ladder, seed=3):
    """{configuration: {unit: statistics}}, as `training.kept_statistics` gives them, made up."""
    rng = np.random.default_rng(seed)
    return {
        each.name: jax.tree.map(
            lambda x: (x * rng.uniform(0.3, 3, x.shape)).astype(x.dtype),
            own_units(model, each, variables["batch_stats"]),
        )
        for each in ladder
        if each.after_a_gap
    }


def make_own_parts(bits=(32,), stage_sizes=(2, 2), channels=(8, 16), errors=(900, 600, 100)):
    """(arguments of `write_bundle`, model, variables, own) of a BlockCoML run with own statistics.

    With the shared ones it would make more errors.
    """
    model, variables, ladder, _ = make_resnet("blockcoml", stage_sizes, channels)
    own = make_own(model, variables, ladder)
    base, blocks = unit_costs(model, variables, tuple(INPUT["shape"]))
    rows = tuple(
        make_row(
            ladder,
            each,
            base=base,
            blocks=blocks,
            examples=1000,
            errors=count - (200 if each.name in own else 0),
            cross_entropy=1.0,
            own_bytes=size_bytes(own.get(each.name, {})),
        )
        for each, count in zip(ladder, errors, strict=True)
    )
    counted = {
        name: {
            "size_bytes": size_bytes(own[name]),
            "shared_errors": 200 + next(r.errors for r in rows if r.configuration == name),
            "shared_cross_entropy": 2.0,
        }
        for name in own
    }
    facts = {"scheme": "blockcoml", "statistics": {"batches": 60, "own": counted}}
    names = {"base_names": model.base_names, "block_names": model.block_names}
    described = {
        "description": describe(model) | {"input": INPUT, "classes": None},
        "table": LookupTable(rows, facts),
    }
    if bits == (32,):
        parts = bundle_parts(variables, **names, **described, ladder=ladder, own=own)
        return parts, model, variables, own
    chains = Chains(fold_norms(variables), **names, bits=bits)
    order = blockwise(ladder, model.block_names, len(bits))
    rungs = rungs_of(order, ladder, model.block_names)
    rungs += uniform(ladder, model.block_names, len(bits) - 1)
    parts = encoded_parts(
        chains,
        order,
        [(rung, Measured(1000, 900 - 9 * len(rung.items), 1.0)) for rung in rungs],
        **described,
        facts={"bits": list(bits)},
        own=[
            (rung, Measured(1000, 890 - 9 * len(rung.items), 1.0))
            for rung in rungs
            if rung.configuration.name in own
        ],
        statistics={
            name: own_piece(name, fold_statistics(variables, trees), max(bits))
            for name, trees in own.items()
        },
    )
    return parts, model, variables, own


def with_own(variables, own):
    """The variables of a configuration with its own statistics."""
    return {**variables, "batch_stats": {**variables["batch_stats"], **own}}


def make_images(count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *INPUT["shape"]), dtype=np.uint8)
