"""docs/examples/links.py, and the policies that it has written for the experiment."""

import collections
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.traces import read_trace
from accordion_jax.depth import LookupTable, make_ladder
from accordion_jax.depth.policy_file import PolicyFile
from tests.commands import ROOT, command_environment

TABLE = "results/figure/figure_resnet20_coml-05_seed0"
KEPT = ROOT / "results" / "link"


def prepare(out, traces, *more):
    line = ["docs/examples/links.py", f"--traces={traces}", f"--table={TABLE}", f"--out={out}"]
    return subprocess.run(
        [sys.executable, *line, f"--links={out / 'links'}", *more],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Two kinds of links, nine and four, of rates that change each second."""
    folder = tmp_path_factory.mktemp("traces")
    rng = np.random.default_rng(0)
    for kind, count, median in (("walking", 9, 80.0), ("train-slow", 4, 3.0)):
        for number in range(count):
            rates = median * np.exp(rng.normal(0, 1, 30))
            rows = "".join(f"{second},{rate:.3f}\n" for second, rate in enumerate(rates))
            (folder / f"{kind}-{number}.csv").write_text(f"time_s,downlink_mbps\n{rows}")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, traces):
    out = tmp_path_factory.mktemp("out")
    done = prepare(out, traces)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_both_halves_have_each_kind(prepared, traces):
    facts = json.loads((prepared / "split.json").read_text())
    fit, test = facts["fit"], facts["test"]
    assert sorted(fit + test) == sorted(path.name for path in traces.iterdir())
    kinds = [collections.Counter(name.rsplit("-", 1)[0] for name in half) for half in (fit, test)]
    assert abs(kinds[0]["walking"] - kinds[1]["walking"]) == 1
    assert kinds[0]["train-slow"] == kinds[1]["train-slow"] == 2
    for half, names in (("fit", fit), ("test", test)):
        copied = prepared / "links" / half
        assert sorted(path.name for path in copied.iterdir()) == names
        assert all((copied / n).read_bytes() == (traces / n).read_bytes() for n in names)


def test_half_of_the_requests_receive_each_third_by_its_deadline(prepared, traces):
    facts = json.loads((prepared / "split.json").read_text())
    rows = LookupTable.read(ROOT / TABLE).rows
    links = [Link(read_trace(traces / name)) for name in facts["fit"]]
    for deadline_s, depth in zip(facts["deadlines_s"], (3, 6, 9), strict=True):
        size = rows[depth].size_bytes

        def arrives(window_s, size=size):
            return np.mean([link.arrival([size], window_s) for link in links])

        assert arrives(deadline_s - 0.06) >= 0.5 > arrives(deadline_s - 0.065)


def test_the_policies_are_of_the_fitting_half(prepared):
    facts = json.loads((prepared / "split.json").read_text())
    deadlines = facts["deadlines_s"]
    names = {"link": deadlines} | {f"link-{1000 * each:.0f}ms": [each] for each in deadlines}
    policies = prepared / "policies"
    assert {path.stem for path in policies.glob("*.json")} == names.keys()
    for name, each in names.items():
        found = PolicyFile.read(policies / f"{name}.json")
        assert found.provenance["inputs_sha256"].keys() == {"lookup_table.json", *facts["fit"]}
        assert [pair[0] for pair in found.facts["deadlines_s"]] == each
        assert min(found.probabilities[1:]) >= 0.01


def test_links_that_never_carry_the_model_are_refused_in_a_line(tmp_path, traces):
    slow = tmp_path / "slow"
    slow.mkdir()
    for number in range(2):
        (slow / f"slow-{number}.csv").write_text("time_s,downlink_mbps\n0,0.001\n1,0.001\n")
    done = prepare(tmp_path / "out", slow)
    assert done.returncode == 1
    assert "half of the requests do not receive 1,176,552 bytes" in done.stderr


@pytest.mark.parametrize(
    "path", sorted((KEPT / "policies").glob("*.json")), ids=lambda path: path.stem
)
def test_a_kept_policy_is_of_the_networks_ladder_and_names_no_machine(path):
    found = PolicyFile.read(path)
    assert sum(found.on(make_ladder("coml", (3, 3, 3)))) == pytest.approx(1)
    assert not re.search(r"[\"= ]/(work|home|root|tmp)", path.read_text())
    if path.stem.startswith("link"):
        split = json.loads((KEPT / "split.json").read_text())
        inputs = found.provenance["inputs_sha256"]
        assert inputs.keys() == {"lookup_table.json", *split["fit"]}
        assert not inputs.keys() & set(split["test"])
