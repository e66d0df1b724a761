"""Measures every composition: true bytes on the wire against the error on the test set.

    python -m benchmarks.compositions.table --plain=RUN --elastic=RUN --rivals=FOLDER --out=FOLDER

The plain network is a run that was trained whole, the elastic one a run of any depth; the rivals
are what `benchmarks.compositions.train` has written. Each of the three may be left out. Writes
``compositions.json``, ``.md`` and ``.png``. What was measured once is kept in the folder, so that
the same command again, with more rivals, measures only those; ``--only`` takes patterns of rows.
Rows that are in ``compositions.json`` and are not measured now stay, and so do its early exits.

``--nnc_python`` is a Python that has `nncodec`, which does not install beside this project's own
packages: with it, the plain network is coded by NNC (ISO/IEC 15938-17) too.

Time on two CPU cores: an hour for ResNet-20 and sixteen rivals; a GPU needs five minutes.
"""

import fnmatch
import functools
import logging
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import flags

from accordion_jax import data, models, training
from accordion_jax.system import command
from accordion_jax.system.files import read_json, write_json, write_whole
from accordion_jax.training.statistics import Renewal, as_measured
from benchmarks.compositions import early_exit, nnc, pictures, rows
from benchmarks.compositions.fitting import Judge
from benchmarks.compositions.measuring import Measured
from benchmarks.options import NNC_PYTHON, ONLY, OUT, run
from benchmarks.report import machine

_log = logging.getLogger("accordion_jax")

_PLAIN = flags.DEFINE_string("plain", None, "Folder of a run that was trained whole.")
_ELASTIC = flags.DEFINE_string("elastic", None, "Folder of a run of any depth.")
_CALLED = flags.DEFINE_string("called", rows.PLAIN, "What rows call the plain network.")
_RIVALS = flags.DEFINE_string("rivals", None, "Folder that benchmarks.compositions.train wrote.")
_TEST = flags.DEFINE_integer("test_examples", 0, "Of the test set; 0: all.", 0)
_CALIBRATION = flags.DEFINE_integer(
    "calibration", 5000, "Held-out training images on which thresholds are chosen.", 1
)
_EARLY_EXIT = flags.DEFINE_bool("early_exit", True, "Measures early exits of the elastic network.")

Point = dict[str, Any]


def main() -> None:
    """Measures, and writes what came out."""
    if not OUT.value or not (_PLAIN.value or _ELASTIC.value or _RIVALS.value):
        raise ValueError("give --out=FOLDER, and one or more of --plain, --elastic and --rivals")
    command.show_log()
    out = pathlib.Path(OUT.value)
    plain, elastic = (
        training.load_run(folder) if folder else None for folder in (_PLAIN.value, _ELASTIC.value)
    )
    elastic = elastic and as_measured(elastic)
    source = elastic or plain
    name = source.config.data.name if source else "cifar10"
    folder = (source.config.data.dir if source else "") or None
    test = data.load(name, "test", data_dir=folder)
    if _TEST.value:
        test = test.select(np.arange(min(_TEST.value, len(test))))
    measured = Measured(Judge(test, test.task), out / "measured_test.json")
    document: dict[str, Any] = {
        "dataset": name,
        "examples": measured.judge.examples,
        "classes": test.num_classes,
        "machine": machine(),
        "rows": [],
        "early_exit": None,
    }
    before = kept_before(out / "compositions.json", document)
    # Of what each row is, and the rows.
    compositions: list[tuple[str | None, Iterable[rows.Composition]]] = []
    if plain:
        network = plain.model, plain.variables
        compositions += [
            (_PLAIN.value, rows.of_plain(*network, _CALLED.value)),
            (_PLAIN.value, nnc.of_plain(*network, NNC_PYTHON.value, _CALLED.value)),
            (_PLAIN.value, rows.without_training(*network, _renewal(plain), _CALLED.value)),
        ]
    if _RIVALS.value:
        compositions.append((_RIVALS.value, rows.of_rivals(pathlib.Path(_RIVALS.value))))
    for run_of, each in compositions:
        for composition in filter(_wanted, each):
            _add(document, measure(composition, measured) | {"run": run_of})
    if elastic:
        blocks = [elastic.model.block_names[i] for i in elastic.ladder.sending_order]
        masks = elastic.ladder.skip_masks
        found = rows.of_elastic(
            *(elastic.model, elastic.variables, blocks, _renewal(elastic)),
            sparsity=elastic.config.train.sparsity,
            rounded=bool(elastic.config.train.bits),
        )
        for depths in filter(_wanted, found):
            _add(document, measure_depths(depths, masks, measured) | {"run": _ELASTIC.value})
    if elastic and _EARLY_EXIT.value:
        held_out = data.load(name, "validation", data_dir=folder, holdout=_CALIBRATION.value)
        document["early_exit"] = exits(elastic, measured.judge, Judge(held_out, test.task))
    document = added_to(before, document)
    write_json(out / "compositions.json", document)
    text = markdown(document)
    write_whole(out / "compositions.md", text)
    pictures.draw(out / "compositions.png", document)
    print(text)
    print(f"wrote compositions.json, .md and .png into {out}")


def kept_before(path: pathlib.Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document that a file has, empty where there is none.

    Args:
      path: of the file.
      document: that is to be added to it.

    Raises:
      ValueError: it is of other images, so that its rows are not comparable; names it.
    """
    before = read_json(path)
    for field in ("dataset", "examples"):
        if before and before.get(field) != document[field]:
            raise ValueError(
                f"{path} has rows of {before.get('examples')} test images of "
                f"{before.get('dataset')}, not {document['examples']} of {document['dataset']}; "
                "give another --out"
            )
    return before


def added_to(before: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a document with the rows of an earlier one that it lacks; rivals come first.

    Args:
      before: of `kept_before`.
      document: as measured now.
    """
    found = {row["name"]: row for row in (*before.get("rows", ()), *document["rows"])}
    return {
        **document,
        "rows": sorted(found.values(), key=lambda row: not row["rival"]),
        "early_exit": document["early_exit"] or before.get("early_exit"),
    }


def _renewal(run: training.Run) -> Renewal:
    """New statistics, of training images that are augmented as they were for the run."""
    config = run.config.data
    train = data.load(config.name, "train", data_dir=config.dir or None, holdout=_CALIBRATION.value)
    task = train.task.with_augmentation(pad=config.pad, flip=config.flip)
    return Renewal(task, train, seed=run.config.seed)


def _wanted(row: rows.Composition | rows.Depths) -> bool:
    return any(fnmatch.fnmatch(row.name, pattern) for pattern in ONLY.value)


def _add(document: dict[str, Any], row: dict[str, Any]) -> None:
    document["rows"].append(row)
    shown = ", ".join(
        f"{point['bytes'] / 1e3:.1f} kB {100 * point['error']:.2f} %" for point in row["points"]
    )
    _log.info("%s: %s", row["name"], shown)


def measure(composition: rows.Composition, measured: Measured) -> dict[str, Any]:
    """Returns the row of a composition, JSON-able."""
    points = [
        {
            "what": what,
            "bytes": sent.size_bytes,
            "error": measured(composition.model, sent.variables)[0],
        }
        for what, sent in zip(composition.what, composition.make(), strict=True)
    ]
    return _row(composition, True, points, composition.note, measured)


def measure_depths(
    depths: rows.Depths, masks: tuple[tuple[bool, ...], ...], measured: Measured
) -> dict[str, Any]:
    """Returns the row of a network of any depth, JSON-able.

    In the first precision there is a point a depth. A later one has a point when all is refined:
    what is between is not measured.
    """
    points: list[Point] = []
    for bits, variables, sizes in zip(depths.bits, *depths.make(), strict=True):
        errors = measured(depths.model, variables, masks)
        found = [
            {
                "what": f"{mask.count(False)} blocks, {bits} bits",
                "bytes": size,
                "error": error,
                "depth": mask.count(False),
                "bits": bits,
            }
            for mask, size, error in zip(masks, _sizes_of(masks, sizes), errors, strict=True)
        ]
        points += found[-1:] if points else found
    return _row(depths, False, points, "", measured)


def _sizes_of(masks: tuple[tuple[bool, ...], ...], sizes: list[int]) -> list[int]:
    """The bytes until each mask's last block, from those after each segment."""
    return [sizes[mask.count(False)] for mask in masks]


def _row(
    composition: rows.Composition | rows.Depths,
    rival: bool,
    points: list[Point],
    note: str,
    measured: Measured,
) -> dict[str, Any]:
    macs = sum(composition.model.unit_macs(measured.judge.task.inputs.shape).values())
    return {
        "name": composition.name,
        "family": composition.family,
        "rival": rival,
        "macs": macs,
        "note": note,
        "points": points,
    }


def exits(run: training.Run, test: Judge, held_out: Judge) -> dict[str, Any]:
    """Returns early exits of a network of any depth, thresholds chosen on held-out images.

    Args:
      run: of the network.
      test: what is reported.
      held_out: what thresholds are chosen on.
    """
    model, masks = run.model, run.ladder.skip_masks
    costs = model.unit_macs(test.task.inputs.shape)
    macs = [sum(costs[unit] for unit in models.kept_units(model, mask)) for mask in masks]
    both = {
        name: early_exit.Answers.of(judge.outputs(model, run.variables, masks), judge.targets)
        for name, judge in (("held_out", held_out), ("test", test))
    }
    found = early_exit.calibrate(both["held_out"], macs, costs["head"])
    on_test = functools.partial(
        early_exit.measure, both["test"], macs=macs, head_macs=costs["head"]
    )
    fixed = [
        {"depth": mask.count(False), "macs": cost, "error": float(wrong.mean())}
        for mask, cost, wrong in zip(masks, macs, both["test"].wrong, strict=True)
    ]

    def shown(chosen: early_exit.Exits | None) -> dict[str, Any] | None:
        if chosen is None:
            return None
        tested = on_test(chosen.thresholds)
        limits = [each if math.isfinite(each) else None for each in chosen.thresholds]
        return {
            "thresholds": limits,
            "held_out": {"error": chosen.error, "mean_macs": chosen.mean_macs},
            "test": {"error": tested.error, "mean_macs": tested.mean_macs},
        }

    full_error = float(both["held_out"].wrong[-1].mean())
    return {
        "fixed": fixed,
        "curve": [shown(each) for each in found],
        "budgets": {
            f"{share:.2f}": shown(early_exit.at_budget(found, share * macs[-1]))
            for share in (0.25, 0.33, 0.5, 0.67, 0.75)
        },
        "errors": {
            f"{points:g} points more": shown(early_exit.at_error(found, full_error + points / 100))
            for points in (0.0, 0.5, 1.0, 2.0)
        },
    }


def markdown(document: Mapping[str, Any]) -> str:
    """Returns the tables of a document."""
    lines = [
        f"{document['dataset']}, {document['examples']:,} test images; {document['machine']}",
        "",
        "| composition | what has arrived | bytes | error, % |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in document["rows"]:
        for i, point in enumerate(row["points"]):
            name = row["name"] if i == 0 else ""
            lines.append(
                f"| {name} | {point['what']} | {point['bytes']:,} | {100 * point['error']:.2f} |"
            )
    notes = [f"* {row['name']}: {row['note']}." for row in document["rows"] if row["note"]]
    if notes:
        lines += ["", *notes]
    if found := document["early_exit"]:
        full = found["fixed"][-1]["macs"]
        lines += [
            "",
            "| early exit | mean MACs, M | of the full network, % | error, % |",
            "| --- | ---: | ---: | ---: |",
        ]
        for each in found["fixed"]:
            lines.append(_exit_row(f"none: {each['depth']} blocks", each["macs"], full, each))
        for share, each in found["budgets"].items():
            if each:
                name = f"budget of {100 * float(share):.0f} %"
                lines.append(_exit_row(name, each["test"]["mean_macs"], full, each["test"]))
        for name, each in found["errors"].items():
            if each:
                lines.append(
                    _exit_row(f"at most {name}", each["test"]["mean_macs"], full, each["test"])
                )
    return "\n".join(lines) + "\n"


def _exit_row(name: str, macs: float, full: float, found: Mapping[str, float]) -> str:
    return f"| {name} | {macs / 1e6:.2f} | {100 * macs / full:.1f} | {100 * found['error']:.2f} |"


if __name__ == "__main__":
    run(main)
