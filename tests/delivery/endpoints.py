"""The real endpoint in a process of its own."""

import contextlib
import re
import subprocess
import sys


def start_endpoint(bundles, port=0, prefix=(), host="127.0.0.1"):
    """(process, URL) of an endpoint that is listening; port 0 takes a free one."""
    process = subprocess.Popen(
        [
            *prefix,
            sys.executable,
            "-m",
            "accordion_jax.serve",
            f"--bundles={bundles}",
            f"--host={host}",
            f"--port={port}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    line = process.stdout.readline()
    found = re.search(r"(http://\S+:\d+)/", line)
    if not found:
        stop(process)
        raise AssertionError(f"the endpoint did not start; it said {line!r}")
    return process, found[1]


def stop(process):
    process.kill()
    process.wait()
    process.stdout.close()


@contextlib.contextmanager
def running_endpoint(bundles, **kwargs):
    process, url = start_endpoint(bundles, **kwargs)
    try:
        yield url
    finally:
        stop(process)
