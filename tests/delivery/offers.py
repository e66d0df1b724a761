"""Sites that offer one model at a time, with whoever may stand between them and a device."""

import contextlib
import shutil

from accordion_jax.delivery.bundle.front_file import write_front
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.trust.documents import RELEASE_NAME
from tests.delivery.live import serving
from tests.delivery.webserver import plain_web_server


class Endpoint:
    """Our endpoint, and somebody in between who can answer for its releases."""

    def __init__(self, folder):
        self.folder = folder
        self.sent = None  # in place of a release file
        self.requests = []
        self._app = make_app(BundleStore(str(folder), refresh_s=0))

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.requests.append(scope["path"])
            if self.sent is not None:
                # An attacker does not care which line was asked for.
                scope = scope | {"query_string": b""}
                if scope["path"].endswith("/release"):
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await send({"type": "http.response.body", "body": self.sent})
                    return
        await self._app(scope, receive, send)


class Site:
    """Somewhere that offers one model at a time, at a URL that names none."""

    def __init__(self, kind, folder, url, endpoint):
        self.kind, self.folder, self.endpoint = kind, folder, endpoint
        self.url = url if kind == "endpoint" else f"{url}/current/manifest.json"

    def offer(self, bundle, release=None):
        """Offers a bundle as it is, or with another release file (bytes; none where empty)."""
        for path in self.folder.iterdir():
            shutil.rmtree(path)
        name = bundle.name if self.kind == "endpoint" else "current"
        shutil.copytree(bundle, self.folder / name)
        self.endpoint.sent = None
        if release == b"":
            (self.folder / name / RELEASE_NAME).unlink(missing_ok=True)
        elif release is not None:
            content = release if isinstance(release, bytes) else release.to_bytes()
            (self.folder / name / RELEASE_NAME).write_bytes(content)
            self.endpoint.sent = content
        if release is not None:
            write_front(self.folder / name, read_manifest(self.folder / name))


@contextlib.contextmanager
def offering(kind, folder):
    folder.mkdir()
    endpoint = Endpoint(folder)
    with serving(endpoint) if kind == "endpoint" else plain_web_server(folder) as url:
        yield Site(kind, folder, url, endpoint)
