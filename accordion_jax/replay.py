"""Replays recorded links against a bundle: error against time since the request.

  python -m accordion_jax.replay --bundle=DIR/MODEL_ID --traces='traces/*.csv' --out=FOLDER \
      [--data=TEST.npz] [--small=RUN_OF_A_SMALL_MODEL]

Writes ``replay.png`` and ``replay.csv`` into FOLDER and prints a table. Compared are Accordion, the
full model, the same with 8 bits a weight, and separately trained small models, each sent whole.
"""

import logging
import pathlib
from collections.abc import Sequence

from absl import app, flags

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.reading import segment_path, verify_bundle
from accordion_jax.delivery.bundle.variables import load_variables
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.links.picture import (
    check_that_pictures_can_be_drawn,
    draw_picture,
    summarise,
    write_csv,
)
from accordion_jax.delivery.links.replay import (
    Method,
    accordion,
    head_bytes,
    log_times,
    number_of_classes,
    replay,
    small_model,
    whole,
)
from accordion_jax.delivery.links.traces import find_traces, read_trace
from accordion_jax.delivery.runtimes.examples import read_examples
from accordion_jax.system import command
from accordion_jax.system.numbers import Number

_BUNDLE = flags.DEFINE_string("bundle", None, "Folder of one bundle.", required=True)
_TRACES = flags.DEFINE_string(
    "traces", None, "Folder or quoted pattern of CSV files (time_s,downlink_mbps).", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder to write into.", required=True)
_SMALL = flags.DEFINE_multi_string(
    "small",
    [],
    "Look-up table (or its run's folder) of a separately trained model, of which the full row "
    "counts; may be repeated, and be followed by =NAME.",
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "FILE.npz with 'images' and 'labels' (or as the task names them): the error of the 8-bit model "
    "is measured on it. Without it, it is taken to be the full model's, and the picture says so.",
)
_STARTS = flags.DEFINE_integer("starts", 200, "Requests a trace.", 1)
_HORIZON_S = flags.DEFINE(Number(0.01), "horizon_s", 30.0, "Seconds after the request to look at.")
_ROUND_TRIP_S = flags.DEFINE(
    Number(0),
    "round_trip_s",
    0.03,
    "Seconds from a request until its first byte; traces do not record it.",
)
_CLASSES = flags.DEFINE_integer(
    "classes", None, "Of the data, for the error without a model; from the manifest.", 2
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the start times.")
command.renamed({"round_trip_ms": "--round_trip_s (in seconds)"})


def main(argv: Sequence[str]) -> None:
    """Reads bundle and traces, replays, writes picture and CSV, prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    check_that_pictures_can_be_drawn()
    manifest = verify_bundle(_BUNDLE.value)
    traces = [read_trace(path) for path in find_traces(_TRACES.value)]
    classes = _CLASSES.value or number_of_classes(manifest)
    if not classes:
        raise app.UsageError("the manifest does not say how many classes there are; give --classes")
    methods = [
        accordion(manifest, head_bytes(manifest)),
        whole("full model", manifest.size_bytes, manifest.table.full.top1_error),
        # Bits a weight are a matter of networks.
        *([_eight_bits(manifest)] if runtimes.name_of(manifest) == "networks" else []),
        *map(_small_model, _SMALL.value),
    ]
    times_s = log_times(_HORIZON_S.value)
    curves = replay(
        methods,
        traces,
        times_s,
        chance_error=1 - 1 / classes,
        starts=_STARTS.value,
        seed=_SEED.value,
        round_trip_s=_ROUND_TRIP_S.value,
    )
    requests = (
        f"{len(traces)} recorded links, {_STARTS.value} requests each, "
        f"round trip {_ROUND_TRIP_S.value:g} s"
    )
    name = f"{manifest.size_bytes / 1e6:.2f} MB, {len(manifest.ladder)} configurations"
    out = pathlib.Path(_OUT.value)
    draw_picture(out / "replay.png", times_s, curves, title=f"{name}; {requests}")
    write_csv(out / "replay.csv", times_s, curves)
    marks_s = [mark for mark in (0.05, 0.1, 0.3, 1.0, 3.0) if mark <= _HORIZON_S.value]
    print(f"{requests}, seed {_SEED.value}; model {manifest.model_id[:16]}")
    print(summarise(times_s, curves, marks_s))
    print(f"wrote {out / 'replay.png'} and {out / 'replay.csv'}")


def _eight_bits(manifest: Manifest) -> Method:
    variables = load_variables(
        manifest, lambda sha256: segment_path(_BUNDLE.value, sha256).read_bytes()
    )
    units = variables["params"]
    blocks = [unit for unit in units if unit in manifest.by_name]
    base = [unit for unit in units if unit not in blocks]
    chains = Chains(variables, base_names=base, block_names=blocks, bits=[8])
    quantised = chains.variables({})
    size_bytes = sum(chains.size_bytes(name, 0) for name in chains.names)
    if _DATA.value is None:
        name = "8 bits, whole (error assumed: the full model's)"
        return whole(name, size_bytes, manifest.table.full.top1_error)
    logging.getLogger("jax").setLevel(logging.WARNING)
    # Here, not above: without data no model is run, and JAX is not needed.
    from accordion_jax.delivery.runtimes.networks import error_rate

    task = runtimes.make(manifest).task
    inputs, targets = read_examples(_DATA.value, task)
    if targets is None:
        raise ValueError(f"{_DATA.value} has no {task.target_name!r}; the error needs them")
    error = error_rate(manifest, quantised, inputs, targets)
    plain = error_rate(manifest, variables, inputs, targets)
    print(
        f"8 bits: error {error:.4f} measured on {len(targets)} {task.example_name}s, on which the "
        f"full model's is {plain:.4f} (look-up table: {manifest.table.full.top1_error:.4f})"
    )
    return whole("8 bits, whole", size_bytes, error)


def _small_model(text: str) -> Method:
    path, _, name = text.partition("=")
    return small_model(path, name)


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError,), argv=argv)


if __name__ == "__main__":
    run()
