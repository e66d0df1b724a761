"""Throughput of our endpoint against nginx that sends the same bytes on the same machine.

    python -m benchmarks.delivery.stream

Each server has one core, the client another. nginx sends with sendfile, as in launch/nginx.conf.

Time on two CPU cores: a quarter of a minute.
"""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.system.command import CommandError
from benchmarks.delivery.setting import Address, Connection, endpoint, get, pin
from benchmarks.options import DEPTH_N, JSON, REPEATS, run
from benchmarks.ours import write_random_bundle
from benchmarks.report import Report
from benchmarks.timing import clocked, interleaved

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""


@contextlib.contextmanager
def nginx(root: pathlib.Path, folder: pathlib.Path) -> Iterator[Address]:
    """Runs nginx with one worker on the files below `root`, its own files in `folder`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{ }}\n"
        f"http {{ access_log off; {temporary} sendfile on; tcp_nopush on;\n"
        f"keepalive_requests 1000000;\n"
        f"server {{ listen 127.0.0.1:{address[1]}; root {root}; }} }}\n"
    )
    arguments = ["-p", str(folder), "-e", f"{folder}/log", "-c", f"{folder}/nginx.conf"]
    process = subprocess.Popen([NGINX, *arguments])
    try:
        pin(process.pid, 0)
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(address):
                break
            time.sleep(0.01)
        yield address
    finally:
        process.terminate()
        process.wait()


def rounds(address: Address, requests: Sequence[bytes], size_bytes: int) -> Callable[[], float]:
    """Returns a function that makes these requests over one connection, and returns the seconds."""
    connection = Connection(address)

    def one_round() -> None:
        received = sum(connection.exchange(request) for request in requests)
        if received != size_bytes:
            raise RuntimeError(f"received {received} bytes, wanted {size_bytes}")

    return clocked(one_round)


def main() -> None:
    """Writes the bundle, and times both servers in two ways."""
    if not NGINX:
        raise CommandError("nginx is not installed: there is nothing to compare with")
    version = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        bundle = write_random_bundle(folder / "bundles", DEPTH_N.value)
        manifest = read_manifest(bundle)
        digests, size_bytes = list(manifest.by_sha256), manifest.size_bytes
        files = [segment_path(bundle, sha256) for sha256 in digests]
        # What nginx cannot put together it is given as one file.
        (bundle / "whole").write_bytes(b"".join(path.read_bytes() for path in files))
        ours, static = f"/v1/models/{bundle.name}", f"/{bundle.name}"
        ways = {
            "whole model, one response": (
                [get(f"{ours}/stream?segments={','.join(digests)}")],
                [get(f"{static}/whole")],
            ),
            "segment by segment": (
                [get(f"{ours}/segments/{sha256}") for sha256 in digests],
                [get(f"{static}/segments/{path.name}") for path in files],
            ),
        }
        (folder / "nginx").mkdir()
        title = f"{len(digests)} segments, {size_bytes} bytes, {version.strip()}"
        with (
            Report(title, JSON.value) as report,
            endpoint(bundle.parent) as a,
            nginx(bundle.parent, folder / "nginx") as b,
        ):
            pin(0, 1)
            report.table({"MB/s": "", "endpoint": ".0f", "nginx": ".0f", "ratio": ".2f"})
            for way, (of_a, of_b) in ways.items():
                runs = {"a": rounds(a, of_a, size_bytes), "b": rounds(b, of_b, size_bytes)}
                found = interleaved(runs, REPEATS.value).values()
                mine, theirs = (seconds.rate(size_bytes / 1e6) for seconds in found)
                report.row(way, mine, theirs, mine.per(theirs))


if __name__ == "__main__":
    run(main, depth_n=18, repeats=41)
