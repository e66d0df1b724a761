"""Policies for recorded links that are fitted to one part of them, so that the rest can test them.

  python docs/examples/links.py --traces=TRACES --table=RUN --out=results/link

1. splits the recordings in two: shuffled within each kind (a file's name up to its first number),
   then every second one is for fitting. So both halves have as many of each kind, but for one.
2. finds three deadlines that matter for this model: the shortest at which half of all requests
   over the fitting half receive a third, two thirds and all of the blocks;
3. fits a policy to each of these, `policies/link-NNNms.json`, and one to all three alike,
   `policies/link.json`; --floor keeps something for each depth, whatever the link.

The halves are copied to --links as fit/ and test/, and split.json has their names and the
deadlines. The sizes of the table alone count, not its errors. A quarter of a minute on a CPU core.
"""

import argparse
import itertools
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from accordion_jax.delivery.links.expected import arrivals
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.traces import find_traces, read_trace
from accordion_jax.depth import LookupTable
from accordion_jax.system.files import write_json

_STEP_S = 0.005
_LONGEST_S = 60.0


def kind(path: pathlib.Path) -> str:
    """What a recording is of: ``ireland-driving`` of ireland-driving-20191214-101630.csv."""
    return re.split(r"[-_]?\d", path.stem)[0]


def split(paths: Sequence[pathlib.Path], seed: int) -> tuple[list[pathlib.Path], ...]:
    """Returns the recordings to fit to, and those to test on."""
    rng = np.random.default_rng(seed)
    shuffled: list[pathlib.Path] = []
    for _, group in itertools.groupby(sorted(paths, key=lambda p: (kind(p), p.name)), key=kind):
        each = list(group)
        shuffled += [each[i] for i in rng.permutation(len(each))]
    return sorted(shuffled[::2]), sorted(shuffled[1::2])


def deadlines_s(links: Sequence[Link], table: LookupTable, round_trip_s: float) -> list[float]:
    """Returns the shortest deadlines at which half of the requests get 1/3, 2/3 and all blocks."""
    sizes = [row.size_bytes for row in table.rows]
    wanted = [
        next(i for i, row in enumerate(table.rows) if 3 * row.depth >= part * table.full.depth)
        for part in (1, 2, 3)
    ]
    found: list[float] = []
    for steps in range(1, round(_LONGEST_S / _STEP_S)):
        deadline_s = round(steps * _STEP_S, 3)
        arrive = arrivals(links, sizes, {deadline_s: 1.0}, wait_s=round_trip_s).mean(0)
        while len(found) < 3 and arrive[wanted[len(found)]] >= 0.5:
            found.append(deadline_s)
        if len(found) == 3:
            return found
    sys.exit(
        f"within {_LONGEST_S:g} s half of the requests do not receive {table.full.size_bytes:,} "
        "bytes; give faster links or a smaller model"
    )


def main() -> None:
    """Splits, chooses deadlines, and fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", required=True, help="folder or quoted pattern of CSV files")
    parser.add_argument("--table", required=True, help="a run's folder, or its lookup_table.json")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--links", type=pathlib.Path, default=pathlib.Path("runs/links"))
    # Of two round trips of 30 ms, which a device took when results/link was made.
    parser.add_argument("--round_trip_s", type=float, default=0.06)
    parser.add_argument("--floor", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    table = LookupTable.read(given.table)
    halves = dict(zip(("fit", "test"), split(find_traces(given.traces), given.seed), strict=True))
    for name, paths in halves.items():
        shutil.rmtree(given.links / name, ignore_errors=True)
        (given.links / name).mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, given.links / name / path.name)
    found = deadlines_s([Link(read_trace(p)) for p in halves["fit"]], table, given.round_trip_s)
    policies = given.out / "policies"
    policies.mkdir(parents=True, exist_ok=True)
    fits = {f"link-{1000 * each:.0f}ms": [each] for each in found} | {"link": found}
    for name, each in fits.items():
        line = [
            *("-m", "accordion_jax.policy", "link"),
            f"--table={given.table}",
            f"--traces={given.links / 'fit'}",
            f"--deadline_s={','.join(map(str, each))}",
            f"--round_trip_s={given.round_trip_s:g}",
            f"--floor={given.floor:g}",
            f"--out={policies / name}.json",
        ]
        print("\n$", shlex.join(["python", *line]), flush=True)
        if code := subprocess.run([sys.executable, *line], check=False).returncode:
            sys.exit(code)
    names = {half: [path.name for path in paths] for half, paths in halves.items()}
    facts = {"seed": given.seed, "round_trip_s": given.round_trip_s, "deadlines_s": found}
    write_json(given.out / "split.json", facts | names)
    print(f"\n{json.dumps(facts)}; {', '.join(f'{len(n)} to {half}' for half, n in names.items())}")


if __name__ == "__main__":
    main()
