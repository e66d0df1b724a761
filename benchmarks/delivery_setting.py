"""What the benchmarks of delivery share: a bundle of ResNet-110's sizes, a server, the machine."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from accordion_jax.delivery.bundle import write_bundle
from accordion_jax.depth import LookupTable, UnitCost, make_ladder, make_row

# One core for the server and one for the client, where there are two.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def write_resnet110(folder: pathlib.Path) -> pathlib.Path:
    """Writes a bundle with the segments of ResNet-110 under CoML: random weights, 7.1 MB, 55 files.

    Its errors fall with depth as they do for trained networks; delivery does not look at weights.
    """
    rng = np.random.default_rng(0)
    ladder = make_ladder("coml", (18, 18, 18))

    def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {
            name.replace("_", "/"): rng.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}_{part}": (channels,) for part in ("scale", "bias", "mean", "var")}

    segments = {
        "base": arrays(
            stem_conv_kernel=(3, 3, 3, 16),
            **norm("stem_norm", 16),
            head_kernel=(64, 10),
            head_bias=(10,),
        )
    }
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(1, 19):
            kernel = (3, 3, width, width)
            segments[f"stage{stage}_block{block:02d}"] = arrays(
                conv1_kernel=kernel,
                conv2_kernel=kernel,
                **norm("norm1", width),
                **norm("norm2", width),
            )
    costs = [
        UnitCost(0, sum(array.nbytes for array in each.values()), 4_718_592)
        for each in segments.values()
    ]
    names = list(segments)
    rows = tuple(
        make_row(
            ladder,
            configuration,
            base=costs[0],
            blocks=tuple(costs[1:]),
            examples=10_000,
            errors=round(9000 * 0.95**configuration.depth),
            cross_entropy=1.0,
        )
        for configuration in ladder
    )
    return write_bundle(
        folder,
        segments=segments,
        depends_on={name: [] if name == "base" else ["base"] for name in names},
        ladder=[
            {"name": c.name, "segments": names[: c.depth + 1], "skip_mask": c.skip_mask}
            for c in ladder
        ],
        model={"family": "resnet", "arguments": {}},
        table=LookupTable(rows, {"scheme": "coml"}),
        provenance={"weights": "random"},
    )


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


def print_machine() -> None:
    """Prints the hardware and the versions that the figures are of."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.search(r"model name\s*: (.*)", text)
        cpu = found.group(1) if found else cpu
    names = ("starlette", "uvicorn", "httptools", "h11", "uvloop")
    versions = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{cpu}, {len(CORES)} cores, load before {load}; {platform.platform()}")
    print(f"Python {platform.python_version()}, {', '.join(versions)}")
    if len(CORES) < 2:
        print("only one core: server and client share it, and the figures are too low")
