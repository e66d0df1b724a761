"""A web server for one bundle that does wrong on purpose, and its in-process twin.

The server is a real one on a free port: connections are really cut. It answers at the addresses of
the endpoint (manifest, segments, stream) and at those of a static folder.
"""

import contextlib
import dataclasses
import http.server
import pathlib
import re
import socket
import struct
import threading
import time

import httpx

from accordion_jax.delivery.bundle.reading import read_manifest


@dataclasses.dataclass
class Fault:
    """What goes wrong with one answer that carries segments.

    Attributes:
      cut_at: bytes of the body after which the connection is reset.
      stall_at: bytes after which nothing comes for `stall_s`, or until `go_on` is set.
      end_at: bytes after which the body ends in order, with no Content-Length to tell.
      replace: bytes of the content -> bytes that are sent instead.
      status: answer with this instead.
    """

    cut_at: int | None = None
    stall_at: int | None = None
    stall_s: float = 0.0
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)
    end_at: int | None = None
    replace: object = None
    status: int | None = None


def is_of_front(target):
    """Whether a request asks for all in one, which this server does not know: a device asks on."""
    return target.partition("?")[0].endswith("/front")


@dataclasses.dataclass
class Served:
    """A bundle's answers, and how they fail: `faults` are used up one a request.

    It has no fronts, as an older server, so that what a device asks for is one thing a request.
    """

    bundle: pathlib.Path
    faults: list = dataclasses.field(default_factory=list)
    requests: list = dataclasses.field(default_factory=list)
    ranges: bool = True
    manifest: bytes | None = None

    def __post_init__(self):
        self.model = read_manifest(self.bundle)
        if self.manifest is None:
            self.manifest = (self.bundle / "manifest.json").read_bytes()

    def content(self, target):
        """(body, is it of segments) at a request's target; None if there is nothing."""
        model_id = self.model.model_id
        if target in (
            "/v1/models/latest",
            f"/v1/models/{model_id}",
            f"/{model_id}/manifest.json",
        ):
            return self.manifest, False
        if found := re.fullmatch(rf"/v1/models/{model_id}/stream\?segments=([0-9a-f,]+)", target):
            return b"".join(map(self._segment, found[1].split(","))), True
        if found := re.fullmatch(rf"/v1/models/{model_id}/segments/([0-9a-f]+)", target):
            return self._segment(found[1]), True
        if found := re.fullmatch(rf"/{model_id}/segments/([0-9a-f]+)\.bin", target):
            return self._segment(found[1]), True
        return None

    def _segment(self, sha256):
        return (self.bundle / "segments" / f"{sha256}.bin").read_bytes()

    def answer(self, target, range_header):
        """(status, headers, body, fault) of a request."""
        found = self.content(target)
        if found is None and is_of_front(target):
            return 404, {}, b"nothing here", Fault()
        self.requests.append((target, range_header))
        if found is None:
            return 404, {}, b"nothing here", Fault()
        body, is_segment = found
        fault = self.faults.pop(0) if is_segment and self.faults else Fault()
        if fault.status:
            return fault.status, {}, b"", fault
        if fault.replace:
            body = fault.replace(body)
        if range_header and is_segment and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", range_header)[1])
            headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return 206, headers, body[start:], fault
        return 200, {}, body, fault


@contextlib.contextmanager
def serving(bundle, **kwargs):
    """Yields (base URL, Served) of a real server."""
    served = Served(bundle, **kwargs)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self):
            status, headers, body, fault = served.answer(self.path, self.headers.get("Range"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if fault.end_at is None:
                self.send_header("Content-Length", str(len(body)))
            else:
                body = body[: fault.end_at]
                self.send_header("Connection", "close")
            self.end_headers()
            try:
                if fault.cut_at is not None:
                    self.wfile.write(body[: fault.cut_at])
                    self.wfile.flush()
                    if not fault.stall_s:
                        time.sleep(0.02)  # Let the bytes out before the reset overtakes them.
                    # A reset, as from a cell that is gone, not an orderly end.
                    self.connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    self.close_connection = True
                    self.connection.close()
                    return
                if fault.stall_at is not None:
                    self.wfile.write(body[: fault.stall_at])
                    self.wfile.flush()
                    fault.go_on.wait(fault.stall_s)
                    body = body[fault.stall_at :]
                self.wfile.write(body)
            except (OSError, ValueError):
                self.close_connection = True

        def log_message(self, *args):
            pass

        def handle(self):
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def finish(self):
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def shutdown_request(self, request):
            with contextlib.suppress(OSError):
                super().shutdown_request(request)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class InProcess(httpx.BaseTransport):
    """The same answers without a socket, for virtual time."""

    def __init__(self, served, piece=4096):
        self.served = served
        self.piece = piece

    def handle_request(self, request):
        target = request.url.raw_path.decode()
        status, headers, body, fault = self.served.answer(target, request.headers.get("Range"))

        def pieces():
            end = len(body) if fault.cut_at is None else fault.cut_at
            for start in range(0, end, self.piece):
                yield body[start : min(start + self.piece, end)]
            if fault.cut_at is not None:
                raise httpx.ReadError("cut")

        headers = {**headers, "Content-Length": str(len(body))}
        return httpx.Response(status, headers=headers, stream=_Stream(pieces()))


class _Stream(httpx.SyncByteStream):
    def __init__(self, pieces):
        self._pieces = pieces

    def __iter__(self):
        return self._pieces
