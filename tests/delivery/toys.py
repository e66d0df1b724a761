"""Small models for the tests of delivery: cut into segments, with a table, and no network."""

import numpy as np

from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.manifest import Manifest, digest
from accordion_jax.delivery.bundle.parts import Configuration, Segment
from accordion_jax.depth import LookupTable, Row, wilson_interval

MODEL = {
    "family": "toy",
    "arguments": {"width": 4},
    "collections": {"batch_stats": ["mean", "var"]},
}


def make_table(names, sizes, errors, macs=None, depths=None):
    """A look-up table of these sizes (bytes) and top-1 errors."""
    depths = depths or list(range(len(names)))
    macs = macs or [1000 * (i + 1) for i in range(len(names))]
    counts = [round(1000 * error) for error in errors]
    return LookupTable(
        tuple(
            Row(
                configuration=name,
                depth=depths[i],
                stage_blocks=(depths[i],),
                parameters=size // 4,
                size_bytes=size,
                mbit=size * 8 / 1e6,
                share_of_bytes=size / sizes[-1],
                share_of_blocks=depths[i] / max(depths[-1], 1),
                macs=macs[i],
                examples=1000,
                errors=counts[i],
                top1_error=counts[i] / 1000,
                error_low=wilson_interval(counts[i], 1000)[0],
                error_high=wilson_interval(counts[i], 1000)[1],
                cross_entropy=1.0,
            )
            for i, (name, size) in enumerate(zip(names, sizes, strict=True))
        ),
        {"scheme": "toy"},
    )


def make_manifest(sizes, errors, macs=None, ends=None, **changes):
    """A manifest of segments of `sizes` wire bytes.

    Configuration i needs the first ``ends[i]`` of them (i + 1, if not given).
    """
    ends = ends or list(range(1, len(sizes) + 1))
    names = ["base", *(f"block{i:02d}" for i in range(1, len(sizes)))]
    segments = [
        Segment(name, name, None, digest(name.encode()), size, size)
        for name, size in zip(names, sizes, strict=True)
    ]
    ladder = [
        Configuration(
            f"toy-{end - 1}", tuple(names[:end]), tuple(i >= end for i in range(1, len(sizes)))
        )
        for end in ends
    ]
    depths = [end - 1 for end in ends]
    table = make_table(
        [c.name for c in ladder], [sum(sizes[:end]) for end in ends], errors, macs, depths
    )
    parts = {"segments": segments, "ladder": ladder, "model": MODEL, "table": table}
    return Manifest.create(**(parts | {"provenance": {"run": "toy"}} | changes))


def make_chained(sizes, refinements, errors, others=(), **changes):
    """A manifest of segments in 4 bits, and of refinements to 8 of the first of them.

    All of the default path is a configuration; `others` gives more of them: names of segments, how
    many blocks are kept, and the error.
    """
    names = ["base", *(f"block{i:02d}" for i in range(1, len(sizes)))]
    layout = Layout({"kernel": (4, 4)})
    coarse = [
        Segment(name, name, 4, digest(name.encode()), size, layout.tensor_bytes, layout)
        for name, size in zip(names, sizes, strict=True)
    ]
    fine = [
        Segment(
            f"{each.name}.8",
            each.name,
            8,
            digest(f"{each.name}.8".encode()),
            size,
            layout.tensor_bytes,
            layout,
            each.name,
        )
        for each, size in zip(coarse, refinements, strict=False)
    ]
    segments = [*coarse, *fine]
    order = [segment.name for segment in segments]
    size_of = {segment.name: segment.size_bytes for segment in segments}
    blocks = len(sizes) - 1
    entries = [
        (order[: i + 1], min(i, blocks), error, f"path-{i}") for i, error in enumerate(errors)
    ]
    entries += [
        (needed, kept, error, f"other-{i}") for i, (needed, kept, error) in enumerate(others)
    ]
    entries.sort(key=lambda entry: sum(size_of[name] for name in entry[0]))
    ladder = [
        Configuration(name, tuple(needed), tuple(block >= kept for block in range(blocks)))
        for needed, kept, _, name in entries
    ]
    table = make_table(
        [configuration.name for configuration in ladder],
        [sum(size_of[name] for name in configuration.segments) for configuration in ladder],
        [error for _, _, error, _ in entries],
        [1000 * (kept + 1) for _, kept, _, _ in entries],
        [kept for _, kept, _, _ in entries],
    )
    parts = {"segments": segments, "ladder": ladder, "model": MODEL, "table": table}
    return Manifest.create(**(parts | {"provenance": {"run": "toy"}} | changes))


def make_parts(blocks=3, width=8, seed=0):
    """Arguments of `write_bundle` for a toy model of a base and `blocks` blocks."""
    rng = np.random.default_rng(seed)
    names = ["base", *(f"block{i:02d}" for i in range(1, blocks + 1))]
    segments = {
        name: {
            "conv/kernel": rng.normal(size=(width, width)).astype(np.float32),
            "norm/mean": rng.normal(size=width).astype(np.float32),
        }
        for name in names
    }
    bytes_each = 4 * (width * width + width)
    ladder = [
        {
            "name": f"toy-{depth}",
            "segments": names[: depth + 1],
            "skip_mask": [block >= depth for block in range(blocks)],
        }
        for depth in range(blocks + 1)
    ]
    table = make_table(
        [c["name"] for c in ladder],
        [bytes_each * (i + 1) for i in range(blocks + 1)],
        [0.8 * 0.5**i for i in range(blocks + 1)],
    )
    return {
        "segments": segments,
        "ladder": ladder,
        "model": MODEL,
        "table": table,
        "provenance": {"run": "toy"},
    }
