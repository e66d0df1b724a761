"""Throughput of our endpoint against nginx that sends the same bytes on the same machine.

  python -m benchmarks.delivery_stream

Each server has one core, the client another. nginx sends with sendfile, as in launch/nginx.conf.
"""

import contextlib
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from benchmarks.delivery_setting import (
    Connection,
    cpu_seconds,
    endpoint,
    get,
    pin,
    write_resnet,
)
from benchmarks.machine import machine

RUNS = 41
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""


@contextlib.contextmanager
def nginx(root, folder):
    """Runs nginx with one worker on the files below `root`; gives its address and process id."""
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
    command = [NGINX, "-p", str(folder), "-e", f"{folder}/log", "-c", f"{folder}/nginx.conf"]
    process = subprocess.Popen(command)
    try:
        pin(process.pid, 0)
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(address):
                break
            time.sleep(0.01)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def throughput(server, requests, size):
    """Median bytes a second of RUNS rounds of these requests, quartiles, CPU seconds a gigabyte."""
    address, process = server
    connection = Connection(address)
    rates = []
    for index in range(RUNS + 3):
        if index == 3:  # the first warm the caches
            cpu = cpu_seconds(process)
        started = time.perf_counter()
        received = sum(connection.exchange(request) for request in requests)
        rates.append(received / (time.perf_counter() - started))
        if received != size:
            raise RuntimeError(f"received {received} bytes, wanted {size}")
    connection.close()
    cpu_s = (cpu_seconds(process) - cpu) / (RUNS * size / 1e9)
    rates = sorted(rates[3:])
    return statistics.median(rates), rates[len(rates) // 4], rates[3 * len(rates) // 4], cpu_s


def main():
    """Writes the bundle, and times both servers in three ways."""
    if not NGINX:
        sys.exit("nginx is not installed: nothing to compare with")
    print(machine("starlette", "uvicorn", "h11"))
    version = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
    print(version.strip())
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_resnet(pathlib.Path(folder) / "bundles", 18)
        manifest = read_manifest(bundle)
        digests = list(manifest.by_sha256)
        files = [segment_path(bundle, sha256) for sha256 in digests]
        # What nginx cannot put together it is given as one file.
        (bundle / "whole").write_bytes(b"".join(path.read_bytes() for path in files))
        ours = f"/v1/models/{bundle.name}"
        static = f"/{bundle.name}"
        size = manifest.size_bytes
        run = pathlib.Path(folder) / "nginx"
        run.mkdir()
        with endpoint(bundle.parent) as a, nginx(bundle.parent, run) as b:
            pin(0, 1)
            print(
                f"{len(digests)} segments, {size} bytes; medians of {RUNS} (quartiles; CPU), MB/s"
            )
            for name, mine, theirs, bytes_ in (
                (
                    "whole model, one response",
                    [get(f"{ours}/stream?segments={','.join(digests)}")],
                    [get(f"{static}/whole")],
                    size,
                ),
                (
                    "segment by segment",
                    [get(f"{ours}/segments/{sha256}") for sha256 in digests],
                    [get(f"{static}/segments/{path.name}") for path in files],
                    size,
                ),
            ):
                results = [throughput(a, mine, bytes_), throughput(b, theirs, bytes_)]
                text = [
                    f"{m / 1e6:5.0f} ({low / 1e6:.0f} to {high / 1e6:.0f}; {cpu:.1f} s/GB)"
                    for m, low, high, cpu in results
                ]
                print(
                    f"{name:28s} endpoint {text[0]:32s} nginx {text[1]:32s} "
                    f"ratio {results[0][0] / results[1][0]:.2f}"
                )


if __name__ == "__main__":
    main()
