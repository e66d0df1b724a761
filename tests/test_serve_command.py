"""The `serve` command as a user runs it: a process of its own."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import urllib.parse

import pytest

from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from tests.delivery.checks import wait_until
from tests.delivery.live import request
from tests.delivery.toys import make_parts

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "accordion_jax.serve"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def command(*arguments):
    """Runs the command; gives (process, URL that it printed)."""
    process = subprocess.Popen(
        [*COMMAND, "--port=0", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"on (http://\S+)/$", line.strip())
        assert found, line + process.stderr.read()
        yield process, found.group(1)
    finally:
        process.kill()
        process.communicate()


def fails(*arguments):
    """Runs the command, which must refuse in one line; gives it."""
    finished = subprocess.run(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1
    return finished.stderr


def test_serves_and_picks_up_new_bundles_and_stops_on_a_signal(tmp_path):
    write_bundle(tmp_path, **make_parts())
    with command(f"--bundles={tmp_path}") as (process, url):
        # It can be connected to as soon as it has said where.
        assert len(json.loads(request(url, "/v1/models")[1])["models"]) == 1
        newer = write_bundle(tmp_path, **make_parts(seed=1))
        # A listing counts as current for a second.
        wait_until(lambda: request(url, f"/v1/models/{newer.name}")[0].status == 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_a_transfer_may_end_before_it_stops(tmp_path):
    bundle = write_bundle(tmp_path, **make_parts(blocks=1, width=2500))
    segment = read_manifest(bundle).segments[0]
    with command(f"--bundles={tmp_path}") as (process, url):
        address = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        connection.request("GET", f"/v1/models/{bundle.name}/segments/{segment.sha256}")
        response = connection.getresponse()
        start = response.read(1000)
        process.send_signal(signal.SIGTERM)
        # No new connection, but the old one goes on to its end.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        assert len(start + response.read()) == segment.size_bytes
        connection.close()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_endless_request_lines_are_cut_off(tmp_path):
    with command(f"--bundles={tmp_path}") as (_, url):
        address = urllib.parse.urlsplit(url)
        with (
            socket.create_connection((address.hostname, address.port), timeout=60) as connection,
            pytest.raises(OSError, match=r"reset|Broken pipe"),
        ):
            connection.sendall(b"GET /?" + b"x" * 65536 * 1000)
        assert request(url, "/healthz")[0].status == 200


def test_garbage_leaves_no_line_in_the_log(tmp_path):
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    with command(f"--bundles={tmp_path}") as (process, url):
        address = urllib.parse.urlsplit(url)
        for sent, status in ((b"\0garbage\r\n\r\n", b"400"), (upgrade, b"200")):
            with socket.create_connection((address.hostname, address.port), 60) as connection:
                connection.sendall(sent)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 " + status)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1] == ""


def test_says_what_is_wrong(tmp_path):
    assert "cannot be listed" in fails(f"--bundles={tmp_path}/nothing")
    assert "cannot be opened" in fails("--bundles=nothing-of-the-kind://x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in fails(
            f"--bundles={tmp_path}", f"--port={port}"
        )
    refused = fails("--bundles=http://me:WORD@127.0.0.1:9/bundles?sig=SECRET")
    assert "bundles='http://127.0.0.1:9/bundles' cannot be" in refused
    assert not re.search("WORD|SECRET", refused)
    assert "flag --bundles must have a value" in fails().lower()
    assert "Unknown command line flag 'prot'" in fails(f"--bundles={tmp_path}", "--prot=1")
    assert "flag --port=65536" in fails(f"--bundles={tmp_path}", "--port=65536")
    assert "unexpected arguments ['more']" in fails(f"--bundles={tmp_path}", "more")


def test_needs_no_jax():
    code = "import accordion_jax.serve, sys; sys.exit('jax' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0
    )
