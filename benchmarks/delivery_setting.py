"""What the benchmarks of delivery share: a bundle of a ResNet's sizes, and a server."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np

from accordion_jax.delivery.bundle.cutting import bundle_parts
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row
from accordion_jax.models import ResNet, describe

SHAPE = (32, 32, 3)

# One core for the server and one for the client, where there are two.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def write_resnet(folder: pathlib.Path, blocks: int) -> pathlib.Path:
    """Writes a bundle of a ResNet of `blocks` blocks a stage under CoML, and returns its folder.

    Random weights, and errors that fall with depth as they do for trained networks: delivery does
    not look at either. 18 blocks a stage are ResNet-110: 7.1 MB in 55 segments.
    """
    model = ResNet(10, (blocks,) * 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.uniform(0.01, 0.1, s.shape).astype(s.dtype), shapes)
    macs = model.unit_macs(SHAPE)
    ladder = make_ladder("coml", model.stage_sizes)

    def cost(*units: str) -> UnitCost:
        kept = [{unit: tree.get(unit, {}) for unit in units} for tree in variables.values()]
        leaves = jax.tree.leaves(kept)
        sizes = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
        return UnitCost(*sizes, sum(macs[unit] for unit in units))

    rows = tuple(
        make_row(
            ladder,
            configuration,
            base=cost(*model.base_names),
            blocks=tuple(cost(name) for name in model.block_names),
            examples=10_000,
            errors=round(9000 * 0.95**configuration.depth),
            cross_entropy=1.0,
        )
        for configuration in ladder
    )
    description = describe(model) | {
        "input": {"shape": list(SHAPE), "mean": [0.5] * 3, "std": [0.25] * 3},
        "classes": None,
    }
    parts = bundle_parts(
        variables,
        base_names=model.base_names,
        block_names=model.block_names,
        description=description,
        ladder=ladder,
        table=LookupTable(rows, {"scheme": "coml"}),
    )
    return write_bundle(folder, **parts)


@contextlib.contextmanager
def endpoint(bundles: pathlib.Path) -> Iterator[tuple[tuple[str, int], int]]:
    """Runs ``python -m accordion_jax.serve`` on one core; gives its address and process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "accordion_jax.serve", f"--bundles={bundles}", "--port=0"],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pin(process.pid, 0)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://(.+):(\d+)/$", line.strip())
        if not found:
            raise RuntimeError(f"the endpoint did not start: {line!r}")
        yield (found.group(1), int(found.group(2))), process.pid
    finally:
        process.terminate()
        process.communicate()


def pin(process: int, core: int) -> None:
    """Keeps a process (0: this one) on one core, where the system can do that."""
    if len(CORES) > 1:
        os.sched_setaffinity(process, {CORES[core]})


def cpu_seconds(process: int) -> float:
    """Processor time that a process has used: unlike time on the wall, true on a busy machine."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return float("nan")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Connection:
    """A kept-alive HTTP/1.1 connection that costs its client little."""

    def __init__(self, address: tuple[str, int]):
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def exchange(self, request: bytes) -> int:
        """Sends a request and reads the answer; returns the bytes of its body."""
        self._socket.sendall(request)
        view = memoryview(self._buffer)
        filled = 0
        while (end := self._buffer.find(b"\r\n\r\n", 0, filled)) < 0:
            filled += self._socket.recv_into(view[filled:])
        head = bytes(view[:end])
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{request[:80]!r} got {head[:200]!r}")
        length = int(re.search(rb"(?i)content-length: (\d+)", head).group(1))  # type: ignore[union-attr]
        left = length - (filled - end - 4)
        while left > 0:
            received = self._socket.recv_into(view[: min(left, len(view))])
            if received == 0:
                raise RuntimeError(f"the connection was closed with {left} bytes to come")
            left -= received
        return length

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


def get(path: str) -> bytes:
    """Returns a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()
