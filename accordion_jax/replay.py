"""Replays recorded links against a bundle: error against time since the request.

  python -m accordion_jax.replay --bundle=DIR/MODEL_ID --traces='traces/*.csv' --out=FOLDER \
      [--data=TEST.npz] [--small=RUN_OF_A_SMALL_MODEL] [--rivals=compositions.json]

Writes ``replay.png`` and ``replay.csv`` into FOLDER and prints a table. Compared are Accordion, the
full model, the same with 8 bits a weight, and separately trained small models, each sent whole; or,
with ``--rivals``, what `benchmarks.compositions.table` has measured. Where one of them is ahead of
Accordion at some moment, ``behind.json`` says by how much.
"""

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app, flags

from accordion_jax.delivery import runtimes
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.precision import Chains
from accordion_jax.delivery.bundle.reading import segment_path, verify_bundle
from accordion_jax.delivery.bundle.variables import load_variables
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.links.comparison import Behind, as_rows, behind, leaders, why
from accordion_jax.delivery.links.methods_file import read_rivals, read_rungs
from accordion_jax.delivery.links.picture import (
    check_that_pictures_can_be_drawn,
    draw_picture,
    draw_round_trips,
    summarise,
    write_csv,
)
from accordion_jax.delivery.links.replay import (
    Curve,
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
from accordion_jax.system.files import write_json
from accordion_jax.system.numbers import Number, WholeNumber

_BUNDLE = flags.DEFINE_string("bundle", None, "Folder of one bundle.")
_RUNGS = flags.DEFINE_string(
    "rungs",
    None,
    "In place of a bundle: FILE.json with bytes and error of each model that arrives, or "
    "compositions.json=ROW.",
)
_RIVALS = flags.DEFINE_string(
    "rivals", None, "compositions.json: rivals with their own measured bytes and errors."
)
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
_ROUND_TRIP_S = flags.DEFINE_multi(
    Number(0),
    flags.ArgumentSerializer(),
    "round_trip_s",
    [0.03],
    "Seconds from a request until its first byte; traces do not record it. May be repeated.",
)
_HEADER_BYTES = flags.DEFINE(
    WholeNumber(0), "header_bytes", 250, "Of each answer, before its body."
)
_SLOW_START = flags.DEFINE_bool(
    "slow_start", False, "The connection is new: ten packets at first, then twice as many a trip."
)
_SLACK = flags.DEFINE(
    Number(1), "slack", 1.05, "Accordion may take so many times as long where it is compared."
)
_TOLERANCE = flags.DEFINE(
    Number(0), "tolerance", 0.003, "Error, 0 to 1, by which it may be above a rival's."
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
    bundle, rungs = _BUNDLE.value, _RUNGS.value
    if bool(bundle) == bool(rungs):
        raise app.UsageError("give --bundle=FOLDER, or --rungs=FILE in its place")
    traces = [read_trace(path) for path in find_traces(_TRACES.value)]
    if bundle:
        methods, name, classes = _of_bundle(bundle)
    else:
        path, _, row = (rungs or "").partition("=")
        methods, classes = [read_rungs(path, row)], _CLASSES.value
        name = f"{methods[0].sizes_bytes[-1] / 1e6:.2f} MB, {len(methods[0].sizes_bytes)} rungs"
    if not classes:
        raise app.UsageError("the manifest does not say how many classes there are; give --classes")
    if _RIVALS.value:
        methods = [methods[0], *read_rivals(_RIVALS.value)]
    methods += map(_small_model, _SMALL.value)
    times_s = log_times(_HORIZON_S.value)
    curves: dict[float, list[Curve]] = {}
    found: dict[float, list[Behind]] = {}
    for round_trip_s in _ROUND_TRIP_S.value:
        run_again = functools.partial(
            replay,
            traces=traces,
            chance_error=1 - 1 / classes,
            starts=_STARTS.value,
            seed=_SEED.value,
            round_trip_s=round_trip_s,
            header_bytes=_HEADER_BYTES.value,
            slow_start=_SLOW_START.value,
        )
        curves[round_trip_s] = run_again(methods, times_s=times_s)
        (late,) = run_again(methods[:1], times_s=_SLACK.value * times_s)
        found[round_trip_s] = behind(
            late, curves[round_trip_s][1:], times_s, tolerance=_TOLERANCE.value
        )
    requests = f"{len(traces)} recorded links, {_STARTS.value} requests each"
    if _SLOW_START.value:
        requests += ", slow start"
    _write(times_s, curves, f"{name}; {requests}")
    print(f"{requests}, seed {_SEED.value}; {name}")
    marks_s = [mark for mark in (0.05, 0.1, 0.3, 1.0, 3.0) if mark <= _HORIZON_S.value]
    for round_trip_s, each in curves.items():
        print(f"\nround trip {round_trip_s:g} s")
        shown = {id(curve) for curve in [each[0], *leaders(each[1:])]}
        rows = each if len(each) <= 12 else [curve for curve in each if id(curve) in shown]
        print(summarise(times_s, rows, marks_s))
    _tell_where_behind(methods, found)


def _of_bundle(folder: str) -> tuple[list[Method], str, int | None]:
    """Returns the methods that a bundle gives, what to call it, and its number of classes."""
    manifest = verify_bundle(folder)
    methods = [
        accordion(manifest, head_bytes(manifest)),
        whole("full model", manifest.size_bytes, manifest.table.full.top1_error),
        # Bits a weight are a matter of networks.
        *([_eight_bits(folder, manifest)] if runtimes.name_of(manifest) == "networks" else []),
    ]
    name = (
        f"{manifest.size_bytes / 1e6:.2f} MB, {len(manifest.ladder)} configurations, "
        f"model {manifest.model_id[:16]}"
    )
    return methods, name, _CLASSES.value or number_of_classes(manifest)


def _write(times_s: np.ndarray, curves: Mapping[float, Sequence[Curve]], title: str) -> None:
    """Writes picture and CSV."""
    out = pathlib.Path(_OUT.value)
    first = next(iter(curves.values()))
    if len(curves) == 1 and len(first) <= 10:
        trip = f"round trip {next(iter(curves)):g} s"
        draw_picture(out / "replay.png", times_s, first, title=f"{title}, {trip}")
    else:
        best = [curve.method.name for each in curves.values() for curve in leaders(each[1:])]
        named = list(dict.fromkeys([first[0].method.name, *best]))
        draw_round_trips(out / "replay.png", times_s, curves, named, title=title)
    write_csv(out / "replay.csv", times_s, curves)


def _tell_where_behind(methods: Sequence[Method], found: Mapping[float, Sequence[Behind]]) -> None:
    """Prints, and writes, which rivals are ahead of Accordion, by how much and why."""
    out, by_name = pathlib.Path(_OUT.value), {method.name: method for method in methods}
    tolerance = _TOLERANCE.value
    write_json(
        out / "behind.json",
        {"slack": _SLACK.value, "tolerance": tolerance, "behind": as_rows(found)},
    )
    rivals = list(dict.fromkeys(each.rival for rows in found.values() for each in rows))
    said = (
        f"\n{methods[0].name} at {_SLACK.value:g} t against every rival at t, within "
        f"{100 * tolerance:g} points, mean, median and worst tenth: "
    )
    if len(methods) > 1:
        print(said + (f"behind {len(rivals)} of {len(methods) - 1}" if rivals else "never behind"))
    for name in rivals:
        reason = why(methods[0], by_name[name], tolerance)
        print(f"  {name}{f' ({reason})' if reason else ''}")
        for round_trip_s, rows in found.items():
            for each in rows:
                if each.rival == name:
                    print(
                        f"    round trip {round_trip_s:g} s, {each.statistic}: up to "
                        f"{100 * each.by:.1f} points at {each.at_s:.3f} s ({100 * each.error:.1f} "
                        f"against {100 * each.rival_error:.1f} %), from {each.first_s:.3f} to "
                        f"{each.last_s:.3f} s"
                    )
    print(f"wrote replay.png, replay.csv and behind.json into {out}")


def _eight_bits(folder: str, manifest: Manifest) -> Method:
    variables = load_variables(manifest, lambda sha256: segment_path(folder, sha256).read_bytes())
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
