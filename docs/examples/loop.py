"""What devices ask for today becomes what is trained tomorrow: the whole loop, in one script.

  python docs/examples/loop.py --out=loop --traces='traces/*.csv' --devices=10000

1. trains a network as a config says, and cuts it into a bundle;
2. serves it with a log of plans;
3. has simulated devices ask for plans over recorded links, many at once, as a device would: with
   the speed that its link had in the second before, a deadline, and some with an error to reach;
4. fits a policy to the log;
5. trains the next network with it.

Without --traces the links are made up. What follows a lone -- goes to both trainings, as in
``-- --config.train.epochs=5``. Two minutes on two CPU cores, training and all.
"""

import argparse
import asyncio
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.traces import Trace, find_traces, read_trace

_DEADLINES_S = (0.1, 0.3, 1.0)
_MAX_ERRORS = (0.05, 0.1, 0.3)
_AT_ONCE = 64


def made_up_links(count: int, rng: np.random.Generator) -> list[Link]:
    """Links whose rate changes each second, with outages now and then."""
    links = []
    for number in range(count):
        median = 10 ** rng.uniform(5.5, 7.5)
        rates = median * np.exp(rng.normal(0, 1, 60)) * (rng.random(60) > 0.05)
        links.append(Link(Trace(f"link {number}", tuple(range(60)), tuple(rates), 60.0)))
    return links


def draw_requirements(links: Sequence[Link], rng: np.random.Generator) -> dict[str, Any]:
    """What one device asks for at a random moment of a random link."""
    link = links[rng.integers(len(links))]
    start = 1 + rng.random() * link.trace.end_s
    asked = {
        "throughput_bps": float(link.capacity_bits(start - 1, start)),
        "deadline_s": float(rng.choice(_DEADLINES_S)),
    }
    return asked | ({"max_error": float(rng.choice(_MAX_ERRORS))} if rng.random() < 0.3 else {})


async def ask(url: str, questions: Sequence[dict[str, Any]]) -> int:
    """Asks for a plan for each, many at once; returns how many were answered."""
    waiting = iter(questions)
    answered = 0

    async def device(client: httpx.AsyncClient) -> None:
        nonlocal answered
        for requirements in waiting:
            await once(client, {"requirements": requirements})
            answered += 1

    async def once(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        for wait_s in (0.1, 0.3, 1.0, 3.0, None):
            try:
                (await client.post("/v1/models/latest/plan", json=body)).raise_for_status()
                return
            except httpx.TransportError:
                # As a server closes a connection that has rested, a request may just be on its way.
                if wait_s is None:
                    raise
                await asyncio.sleep(wait_s)

    limits = httpx.Limits(max_connections=_AT_ONCE)
    async with httpx.AsyncClient(
        base_url=url, limits=limits, timeout=60, trust_env=False
    ) as client:
        await asyncio.gather(*(device(client) for _ in range(_AT_ONCE)))
    return answered


def command(name: str, *arguments: object) -> list[str]:
    """A command of the package, shown as a person would type it."""
    line = ["-m", f"accordion_jax.{name}", *map(str, arguments)]
    print("\n$", shlex.join(["python", *line]), flush=True)
    return [sys.executable, *line]


def run(name: str, *arguments: object) -> None:
    """Runs a command to its end; one that fails has said why."""
    if code := subprocess.run(command(name, *arguments), check=False).returncode:
        sys.exit(code)


def main() -> None:
    """Goes round once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--traces", help="CSV files of recorded links, as a quoted pattern")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="of the config, after a lone --")
    given = parser.parse_args()
    out, rng = given.out, np.random.default_rng(given.seed)
    if given.traces:
        links = [Link(read_trace(path)) for path in find_traces(given.traces)]
    else:
        links = made_up_links(20, rng)

    first, second, log = out / "first", out / "second", out / "plans.jsonl"
    run("main", f"--config={given.config}", f"--workdir={first}", *given.overrides)
    run("bundle", f"--workdir={first}", f"--out={out / 'bundles'}")

    log.unlink(missing_ok=True)
    endpoint = subprocess.Popen(
        command("serve", f"--bundles={out / 'bundles'}", "--port=0", f"--plan_log={log}"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert endpoint.stdout is not None
        said = endpoint.stdout.readline()
        found = re.search(r"http://\S+?(?=/\s)", said)
        if found is None:
            raise SystemExit(f"the endpoint did not start: {said!r}")
        questions = [draw_requirements(links, rng) for _ in range(given.devices)]
        began = time.perf_counter()
        answered = asyncio.run(ask(found[0], questions))
        seconds = time.perf_counter() - began
        print(f"{answered} devices over {len(links)} links asked in {seconds:.1f} s")
    finally:
        endpoint.send_signal(signal.SIGTERM)  # it writes what waits, and ends
        endpoint.wait()
        if endpoint.stdout is not None:
            endpoint.stdout.close()
    lines = log.read_text().splitlines()
    print(f"{len(lines)} lines in {log}; the first: {lines[0]}")

    policy = out / "asked.json"
    floor = ("--full_probability=0.3", "--floor=0.01")
    run("policy", "demand", f"--table={first}", f"--log={log}", *floor, f"--out={policy}")
    chosen = ("--config.policy.name=file", f"--config.policy.path={policy}")
    run("main", f"--config={given.config}", f"--workdir={second}", *chosen, *given.overrides)


if __name__ == "__main__":
    main()
