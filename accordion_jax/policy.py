"""Fits the depths that are trained to the link and to the demand, and shows what that brings.

  python -m accordion_jax.policy link --table=RUN --traces='traces/*.csv' --deadline_s=0.3 --out=link.json
  python -m accordion_jax.policy demand --table=RUN --max_error=0.3:0.7,0.2:0.3 --out=demand.json
  python -m accordion_jax.policy demand --table=RUN --log='plans.jsonl*' --out=asked.json
  python -m accordion_jax.policy mix link.json:0.5 demand.json:0.5 --full_probability=0.3 --out=mix.json
  python -m accordion_jax.policy evaluate RUN... --traces='test/*.csv' --deadline_s=0.1,0.3 --classes=10
  python -m accordion_jax.policy evaluate RUN... --max_error=0.3:0.7,0.2:0.3
  python -m accordion_jax.policy guarantee --table=RUN --traces='traces/*.csv' --deadline_s=0.3
  python -m accordion_jax.policy convergence RUN... --errors=0.5,0.3

A policy is a JSON file, with its bar chart beside it. Training takes it with
--config.policy.name=file --config.policy.path=FILE.
"""  # noqa: E501

import functools
import itertools
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from absl import app, flags

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.endpoint.plan_log import find_plan_logs, read_plan_log
from accordion_jax.delivery.errors import DeliveryError
from accordion_jax.delivery.links import charts, demands, expected
from accordion_jax.delivery.links.expected import Arrivals, arrivals
from accordion_jax.delivery.links.guarantee import statements
from accordion_jax.delivery.links.link import read_links
from accordion_jax.delivery.links.models import parse_model
from accordion_jax.delivery.links.picture import check_that_pictures_can_be_drawn
from accordion_jax.delivery.links.replay import Method, accordion, head_bytes
from accordion_jax.delivery.links.traces import find_traces, read_trace
from accordion_jax.depth import LookupTable
from accordion_jax.depth.fitting import (
    Demand,
    best_that_arrives,
    histogram,
    mixture,
    smallest_that_satisfies,
    weighted,
)
from accordion_jax.depth.policy_file import PolicyFile, check_distribution, file_digests
from accordion_jax.runs.folder import TABLE_FILE
from accordion_jax.runs.metrics import convergence, convergence_table
from accordion_jax.system import command
from accordion_jax.system.files import write_json
from accordion_jax.system.numbers import Number, WholeNumber

_TABLE = flags.DEFINE_string("table", None, "A run's folder, or its lookup_table.json.")
_BUNDLE = flags.DEFINE_string(
    "bundle", None, "Folder of a bundle, in place of --table: its bytes on the wire count."
)
_OVERHEAD_BYTES = flags.DEFINE(
    WholeNumber(0), "overhead_bytes", 0, "Before the first block, with --table: the manifest."
)
_BYTES_FACTOR = flags.DEFINE(
    Number(1e-6, 1e6), "bytes_factor", 1.0, "Bytes of each configuration times this, errors as is."
)
_TRACES = flags.DEFINE_string(
    "traces", None, "Folder or quoted pattern of CSV files (time_s,downlink_mbps)."
)
_LINK_MODEL = flags.DEFINE_string(
    "link_model",
    None,
    "In place of --traces: constant:rate_bps=, lognormal:median_bps=,sigma=, "
    "rayleigh:bandwidth_hz=,snr_db=, rician:bandwidth_hz=,snr_db=,k_db= or "
    "onoff:rate_bps=,on_s=,off_s=.",
)
_DEADLINE_S = flags.DEFINE_list(
    "deadline_s",
    None,
    "Seconds from the request. To fit a policy, several are a distribution (0.1:0.25,0.3:0.75; all "
    "alike without a share); elsewhere each is a case of its own.",
)
_ROUND_TRIP_S = flags.DEFINE(
    Number(0), "round_trip_s", 0.03, "Of which a device takes one before the first byte."
)
_MAX_ERROR = flags.DEFINE_list("max_error", None, "Demand: errors, 0 to 1, or ERROR:SHARE.")
_MAX_BYTES = flags.DEFINE_list("max_bytes", None, "Demand: sizes, or BYTES:SHARE.")
_LOG = flags.DEFINE_string("log", None, "Demand: an endpoint's log of plans, or a quoted pattern.")
_MODEL = flags.DEFINE_string("model", "", "model_id whose plans of the log count.")
_FULL = flags.DEFINE(
    Number(0, 1), "full_probability", 0.0, "The full model is drawn at least so often."
)
_FLOOR = flags.DEFINE(
    Number(0, 1), "floor", 0.0, "Each configuration of --min_depth or more, at least so often."
)
_MIN_DEPTH = flags.DEFINE_integer("min_depth", 1, "Blocks; of --floor.", 0)
_CLASSES = flags.DEFINE_integer("classes", None, "The error without a model is 1 - 1/classes.", 2)
_CHOOSE_ON = flags.DEFINE_string(
    "choose_on", None, "Recordings, none of --traces, to choose the best run of each deadline on."
)
_REFERENCE = flags.DEFINE_string("reference", None, "Label that the others are compared with.")
_CONFIDENCE = flags.DEFINE(Number(0.5, 1), "confidence", 0.95, "Of the guarantee.")
_CONTENT = flags.DEFINE(
    Number(0, 1), "content", None, "Share of all links to speak of; default: the next link."
)
_BLOCK_S = flags.DEFINE(
    Number(0.001), "block_s", None, "Take blocks of so many seconds of a trace as independent."
)
_ERRORS = flags.DEFINE_list("errors", ["0.5", "0.3", "0.2"], "To reach, 0 to 1.")
_UNDER = flags.DEFINE_string(
    "under", None, "Policy file to weigh the depths by; default: each run's own policy."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap, and of the starts of a guarantee.", 0)
_OUT = flags.DEFINE_string("out", None, "FILE.json to write; the picture is FILE.png.")

_SOURCE = ("table", "bundle", "overhead_bytes")
_MEASURED = ("traces", "deadline_s", "round_trip_s")
_LINKS = ("link_model", *_MEASURED)
_MIX = ("full_probability", "floor", "min_depth", "out")
# Sub-command -> the flags that it takes.
_TAKES = {
    "link": (*_SOURCE, *_LINKS, *_MIX),
    "demand": (*_SOURCE, "max_error", "max_bytes", "log", "model", *_MIX),
    "mix": _MIX,
    "evaluate": (
        *("overhead_bytes", "bytes_factor", *_LINKS, "max_error", "classes", "choose_on"),
        *("reference", "seed", "out"),
    ),
    "guarantee": (*_SOURCE, *_MEASURED, "confidence", "content", "block_s", "seed"),
    "convergence": ("errors", "under"),
}


def main(argv: Sequence[str]) -> None:
    """Runs one sub-command."""
    name = argv[1] if len(argv) > 1 else ""
    commands: dict[str, Callable[[list[str]], None]] = {
        "link": _link,
        "demand": _demand,
        "mix": _mix,
        "evaluate": _evaluate,
        "guarantee": _guarantee,
        "convergence": _convergence,
    }
    if name not in commands:
        raise app.UsageError(f"give one of {', '.join(commands)}; got {name or 'none'!r}")
    for each in dict.fromkeys(itertools.chain(*_TAKES.values())):
        if flags.FLAGS[each].present and each not in _TAKES[name]:
            takes = ", ".join(f"--{flag}" for flag in _TAKES[name])
            raise app.UsageError(f"{name} has no flag --{each}; it takes {takes}")
    takes_names = name in ("mix", "evaluate", "convergence")
    if bool(argv[2:]) != takes_names:
        wants = "names at least one file or run" if takes_names else "takes flags alone"
        raise app.UsageError(f"{name} {wants}; got {argv[2:]}")
    commands[name](list(argv[2:]))


def _one_of(*choice: flags.FlagHolder) -> flags.FlagHolder:
    """The flag that is given, where it is one alone."""
    given = [each for each in choice if each.value]
    if len(given) != 1:
        wanted, got = (", ".join(f"--{each.name}" for each in some) for some in (choice, given))
        raise app.UsageError(f"give one of {wanted}; got {got or 'none'}")
    return given[0]


def _source() -> tuple[LookupTable, Method, dict[str, str]]:
    """Table, sizes as they arrive, and digests of what was read."""
    given = _one_of(_TABLE, _BUNDLE)
    if given is _BUNDLE:
        manifest = read_manifest(given.value)
        method = accordion(manifest, head_bytes(manifest))
        rows = tuple(manifest.rows[configuration.name] for configuration in manifest.path)
        return LookupTable(rows, manifest.table.provenance), method, {"model_id": manifest.model_id}
    table, path = LookupTable.read(given.value), pathlib.Path(given.value)
    return table, _method(table), file_digests(path / TABLE_FILE if path.is_dir() else path)


def _method(table: LookupTable) -> Method:
    factor = _BYTES_FACTOR.value
    return Method(
        "Accordion",
        tuple(round(factor * row.size_bytes) + _OVERHEAD_BYTES.value for row in table.rows),
        tuple(row.top1_error for row in table.rows),
    )


def _links() -> tuple[Sequence[Arrivals], str, dict[str, str]]:
    """Links, what to call them, and digests of what was read."""
    given = _one_of(_TRACES, _LINK_MODEL)
    if given is _LINK_MODEL:
        return [parse_model(given.value)], given.value, {}
    paths, links = read_links(given.value)
    return links, f"{len(links)} recorded link{'s' * (len(links) > 1)}", file_digests(*paths)


def _deadlines() -> dict[float, float]:
    """Seconds from the request, and the weight of each."""
    if not _DEADLINE_S.value:
        raise app.UsageError("give --deadline_s, seconds from the request")
    found: dict[float, float] = {}
    for deadline_s, weight in (weighted(item, "--deadline_s") for item in _DEADLINE_S.value):
        if not 0 < deadline_s <= 1e6:
            raise ValueError(f"--deadline_s: {deadline_s:g} must be above 0 and at most 1e6")
        found[deadline_s] = found.get(deadline_s, 0.0) + weight
    return found


def _link(_names: list[str]) -> None:
    table, method, digests = _source()
    links, name, more = _links()
    found = _deadlines()
    if any(":" in item for item in _DEADLINE_S.value or ()):
        check_distribution(list(found.values()), "--deadline_s")
    total = sum(found.values())
    deadlines = {deadline_s: weight / total for deadline_s, weight in found.items()}
    wait_s = method.round_trips * _ROUND_TRIP_S.value
    arrive = arrivals(links, method.sizes_bytes, deadlines, wait_s=wait_s).mean(0)
    shares, nothing = best_that_arrives(arrive)
    smallest = table.rows[0].configuration
    said = f"nothing arrives in {100 * nothing:.2f} % of the cases, not even {smallest}; left out"
    facts = {"fitted_to": "link", "link": name, "nothing_arrives": nothing}
    facts |= {"deadlines_s": [list(each) for each in deadlines.items()]}
    shown = ", ".join(
        f"{each:g} s" + (f" ({100 * share:.0f} %)" if len(deadlines) > 1 else "")
        for each, share in deadlines.items()
    )
    title = f"{name}, deadline {shown}"
    _write(table, [shares], [1.0], facts, digests | more, title, said)


def _demand(_names: list[str]) -> None:
    table, _, digests = _source()
    given = _one_of(_MAX_ERROR, _MAX_BYTES, _LOG)
    said = []
    if given is _LOG:
        paths = find_plan_logs(given.value)
        logged = read_plan_log(paths, _MODEL.value)
        asked, digests = logged.demands, digests | file_digests(*paths)
        title = f"{sum(logged.requirements.values()):,} plans of the endpoint's log"
        if logged.foreign:
            said.append(
                f"passed over {logged.foreign} foreign line(s) of the log; {logged.first_foreign}"
            )
    else:
        items, asked = given.value, histogram(given.value, given.name)
        title = f"demand: {given.name} {', '.join(items[:6])}{', ...' if len(items) > 6 else ''}"
    answered = smallest_that_satisfies(table, asked)
    facts = {
        "fitted_to": "demand",
        "demand": title,
        "unreached": answered.unreached,
        "unserved": answered.unserved,
    }
    said += [
        f"no configuration has the error of {100 * answered.unreached:.2f} % of the demands; they "
        "count for the largest within their bounds",
        f"not even the smallest is within the bounds of {100 * answered.unserved:.2f} %; left out",
    ]
    _write(table, [answered.probabilities], [1.0], facts, digests, title, *said)


def _mix(names: list[str]) -> None:
    paths, weights = [], []
    for item in names:
        name, colon, weight = item.rpartition(":")
        if not colon or pathlib.Path(item).is_file():
            name, weight = item, str(1 / len(names))
        paths.append(pathlib.Path(name))
        weights.append(weighted(f"0:{weight}", item)[1])
    files = PolicyFile.read_all(*paths)
    pairs = list(zip(paths, weights, strict=True))
    facts = {"fitted_to": "mix", "mixed": [[path.name, weight] for path, weight in pairs]}
    title = "mixture of " + ", ".join(f"{weight:.2g} {path.stem}" for path, weight in pairs)
    policies = [file.probabilities for file in files]
    _write(files[0], policies, weights, facts, file_digests(*paths), title, names=names)


def _out() -> pathlib.Path:
    if not _OUT.value or not _OUT.value.endswith(".json"):
        raise app.UsageError(f"give --out=FILE.json; got {_OUT.value!r}")
    return pathlib.Path(_OUT.value)


def _write(
    ladder: LookupTable | PolicyFile,
    policies: Sequence[npt.ArrayLike],
    weights: Sequence[float],
    facts: dict[str, Any],
    digests: Mapping[str, str],
    title: str,
    *said: str,
    names: Sequence[str] = (),
) -> None:
    """Mixes, writes the file and its chart, and says what was done."""
    path = _out()
    check_that_pictures_can_be_drawn()
    entries = ladder.rows if isinstance(ladder, LookupTable) else ladder.entries
    probabilities = mixture(
        policies,
        weights,
        full_probability=_FULL.value,
        floor=_FLOOR.value,
        wanted=[sum(each.stage_blocks) >= _MIN_DEPTH.value for each in entries],
    )
    facts |= {"full_probability": _FULL.value, "floor": _FLOOR.value}
    given = [flags.FLAGS[name] for taken in _TAKES.values() for name in taken]
    values = {flag.name: flag.value for flag in given if flag.present}
    texts = [f"--{n}={','.join(v) if isinstance(v, list) else v}" for n, v in values.items()]
    line = shlex.join(["python", "-m", "accordion_jax.policy", facts["fitted_to"], *names, *texts])
    provenance = {"command": line, "inputs_sha256": dict(digests)}
    found = PolicyFile.like(ladder, probabilities.tolist(), facts=facts, provenance=provenance)
    found.write(path)
    chart = path.with_suffix(".png")
    charts.draw_policies(chart, found.entries, {path.stem: found.probabilities}, title=title)
    drawn = [f"{e.name} {100 * e.probability:.1f} %" for e in found.entries if e.probability > 0]
    print(f"{title}\ndrawn: {', '.join(drawn)}")
    print("\n".join([*said, f"wrote {path} and {chart}"]))


def _evaluate(names: list[str]) -> None:
    _one_of(_CLASSES, _MAX_ERROR)
    asked = histogram(_MAX_ERROR.value or (), "max_error")
    demanded = {each.max_error or 0.0: share for each, share in asked.items()}
    path = None if _OUT.value is None else _out()
    from accordion_jax import evaluation  # here, not above: it loads JAX, which no other needs

    tables = sorted(map(LookupTable.read, names), key=lambda t: t.provenance.get("seed", 0))
    error_name, by_label = evaluation.error_name(tables), evaluation.group_seeds(tables)
    title, labels = evaluation.without_common(list(by_label))
    grouped = zip(labels, by_label.values(), strict=True)
    groups, reference = {label: [*map(_method, each)] for label, each in grouped}, _REFERENCE.value
    if reference is not None and reference not in groups:
        raise ValueError(f"--reference={reference!r} is none of {', '.join(map(repr, groups))}")
    facts: dict[str, Any] = {"bytes_factor": _BYTES_FACTOR.value}
    if demanded:
        facts["demands"] = demands.meet(groups, demanded, reference)
        print(demands.markdown(facts["demands"], error_name, reference))
        measured, measure = "demands not met", functools.partial(demands.unmet, demanded=demanded)
    else:
        measured, chance = f"expected {error_name}", 1 - 1 / (_CLASSES.value or 2)
        measure = functools.partial(expected.expected_errors, chance_error=chance)
    of_links = (_TRACES, _LINK_MODEL, _DEADLINE_S, _CHOOSE_ON)
    if not demanded or any(each.value for each in of_links):
        links, name, digests = _links()
        facts |= {"links": name, "round_trip_s": _ROUND_TRIP_S.value, "inputs_sha256": digests}
        others = read_links(_CHOOSE_ON.value, none_of=digests)[1] if _CHOOSE_ON.value else []
        facts["rows"] = expected.compare(
            groups,
            links,
            list(_deadlines()),
            functools.partial(measure, round_trip_s=_ROUND_TRIP_S.value),
            round_trip_s=_ROUND_TRIP_S.value,
            reference=reference,
            choose_on=others,
            seed=_SEED.value,
        )
        print(expected.markdown(facts["rows"], measured, reference))
        if path is not None:
            title = f"{title}\n{name}; 95 % intervals (bootstrap over links)"
            chart = path.with_suffix(".png")
            charts.draw_over_links(chart, facts["rows"], measured=measured, title=title)
            print(f"\nwrote {chart}", end="")
    if path is not None:
        write_json(path, facts)
        print(f"\nwrote {path}")


def _guarantee(_names: list[str]) -> None:
    table, method, _ = _source()
    if _TRACES.value is None:
        raise app.UsageError("give --traces: a guarantee rests on measured links")
    traces = [read_trace(path) for path in find_traces(_TRACES.value)]
    found = statements(
        *(table, method, traces, list(_deadlines())),
        confidence=_CONFIDENCE.value,
        content=_CONTENT.value,
        block_s=_BLOCK_S.value,
        round_trip_s=_ROUND_TRIP_S.value,
        seed=_SEED.value,
    )
    print("\n".join(found))


def _convergence(names: list[str]) -> None:
    errors = [weighted(each, "--errors")[0] for each in _ERRORS.value]
    for error in errors:
        Demand(max_error=error)  # refuses a percentage
    weights, of = None, "the error under its own policy"
    if _UNDER.value is not None:
        weights = PolicyFile.read(_UNDER.value).by_depth()
        of = f"the error under {pathlib.Path(_UNDER.value).stem}"
    runs = {pathlib.Path(name).name: convergence(name, weights) for name in names}
    print(convergence_table(runs, errors, of))


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command; what goes wrong becomes one line."""
    command.run(main, errors=(DeliveryError,), argv=argv)


if __name__ == "__main__":
    run()
