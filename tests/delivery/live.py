"""A real server for tests, in a thread of this process, on a free port."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse

import uvicorn

from accordion_jax.delivery.endpoint.server import configuration


@contextlib.contextmanager
def serving(app):
    """Serves an ASGI application; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(configuration(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=60)
    assert not thread.is_alive()


def request(url, path, *, method="GET", headers=None, body=None):
    """Sends one request whose path goes out as it is, dots and all; gives (response, body)."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def segment_url(manifest, index):
    return f"/v1/models/{manifest.model_id}/segments/{manifest.segments[index].sha256}"


def stream_url(manifest, segments):
    digests = ",".join(segment.sha256 for segment in segments)
    return f"/v1/models/{manifest.model_id}/stream?segments={digests}"
