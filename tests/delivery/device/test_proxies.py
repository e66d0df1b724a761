"""Where only a proxy leads out, as in many companies: the command and the interface take it."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

import pytest

from accordion_jax.delivery.device.transport import HttpTransport
from accordion_jax.delivery.errors import TransportError
from tests.delivery.servers import serving

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@contextlib.contextmanager
def proxy(server):
    """A proxy that sends what is for model.example to `server`; gives (URL, requested URLs)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            address = urllib.parse.urlsplit(self.path)
            assert address.hostname == "model.example"
            inner = address._replace(scheme="http", netloc=server.removeprefix("http://"))
            with urllib.request.urlopen(inner.geturl()) as answer:
                body = answer.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", asked
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("flags", [(), ("--link_bps=1e8", "--latency_s=0.01")])
def test_the_command_goes_through_the_proxy(toy_bundle, tmp_path, flags):
    with serving(toy_bundle) as (server, _), proxy(server) as (through, asked):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "accordion_jax.fetch", "http://model.example"),
                *("--upgrade", f"--cache={tmp_path}", *flags),
            ],
            env=os.environ | {"HTTP_PROXY": through, "http_proxy": through},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "in use       toy-5" in done.stdout
        assert asked[0] == "http://model.example/v1/models/latest"


@pytest.mark.tries("Change or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY")
def test_settings_that_cannot_be_used_are_named(monkeypatch):
    for name, value in (("NO_PROXY", "fe80::/10"), ("HTTP_PROXY", "nothing://of the kind")):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv(name, value)
        with pytest.raises(TransportError, match="Change or unset HTTP_PROXY"):
            HttpTransport("http://model.example")
        monkeypatch.delenv(name)
        HttpTransport("http://model.example").close()  # as it says
