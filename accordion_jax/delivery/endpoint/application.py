"""The network endpoint: plans what to send to a device, and sends it.

A stateless, read-only ASGI application. A device says what it needs and what it holds; nothing
about it is kept, but for a log of plans, if one is asked for, which does not say who asked. All
content but the list of models is immutable, so that any cache or web server can take over the
sending.
"""

import contextlib
import json
import logging
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from accordion_jax.delivery.bundle.manifest import digest, is_digest
from accordion_jax.delivery.endpoint.admission import Admission, few_threads
from accordion_jax.delivery.endpoint.http_range import is_unmodified
from accordion_jax.delivery.endpoint.metrics import CountRequests, Metrics
from accordion_jax.delivery.endpoint.openapi import MAX_STREAM_SEGMENTS, openapi_document
from accordion_jax.delivery.endpoint.plan_log import PlanLog
from accordion_jax.delivery.endpoint.plan_request import (
    first_plan,
    read_body,
    read_front_request,
    read_plan_request,
)
from accordion_jax.delivery.endpoint.sending import IMMUTABLE, Sender
from accordion_jax.delivery.endpoint.store import BundleStore, StoredModel
from accordion_jax.delivery.errors import SegmentError, StorageError
from accordion_jax.delivery.planner import plan
from accordion_jax.delivery.trust.statements import LINE
from accordion_jax.system.text import short

_log = logging.getLogger(__name__)

_PAGE = pathlib.Path(__file__).with_name("page")
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
}


def make_app(
    store: BundleStore, *, most_requests: int = 1024, plan_log: PlanLog | None = None
) -> Starlette:
    """Returns the ASGI application that serves the bundles of a store.

    Args:
      store: of the bundles.
      most_requests: that are answered at once; beyond them 503, but to whoever watches over it.
      plan_log: of what plans are asked for, closed when the application stops; None keeps none.
    """
    handlers = _Handlers(store, Metrics(plan_log), plan_log)
    app = Starlette(
        routes=[
            _page_route("/", "index.html", "text/html"),
            _page_route("/page.css", "page.css", "text/css"),
            _page_route("/page.js", "page.js", "text/javascript"),
            Route("/openapi.json", handlers.openapi),
            Route("/healthz", handlers.health),
            Route("/metrics", handlers.metrics),
            Route("/v1/models", handlers.models),
            Route("/v1/models/{model_id}", handlers.manifest),
            Route("/v1/models/{model_id}/release", handlers.release),
            Route("/v1/models/{model_id}/front", handlers.front, methods=["POST"]),
            Route("/v1/models/{model_id}/plan", handlers.plan, methods=["POST"]),
            Route("/v1/models/{model_id}/segments/{sha256}", handlers.segment),
            Route("/v1/models/{model_id}/stream", handlers.stream),
        ],
        middleware=[
            Middleware(CountRequests, metrics=handlers.counters),
            Middleware(Admission, most=most_requests),
        ],
        exception_handlers={
            HTTPException: _http_error,
            StorageError: _storage_error,
            SegmentError: _storage_error,
            ClientDisconnect: _gone,
            Exception: _internal_error,
        },
        lifespan=_lifespan(store, plan_log),
    )
    # A path with a slash too many is not there; a redirect would be one more answer to document.
    app.router.redirect_slashes = False
    return app


def _lifespan(store: BundleStore, plan_log: PlanLog | None) -> Callable[[Starlette], Any]:
    """What lasts as long as the application: its bound on threads, and the log of plans."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if store.is_local:
                await stack.enter_async_context(few_threads(app))
            if plan_log:
                await stack.enter_async_context(plan_log.lifespan(app))
            yield

    return lifespan


class _Handlers:
    """One method a route."""

    def __init__(self, store: BundleStore, counters: Metrics, plan_log: PlanLog | None):
        self.counters = counters
        self._plan_log = plan_log
        self._store = store
        self._sender = Sender(store, counters)
        self._openapi = openapi_document()
        # A thread of its own, for when all others are busy with devices.
        self._watching = anyio.CapacityLimiter(1)

    async def openapi(self, _request: Request) -> Response:
        """The OpenAPI document."""
        return _json(self._openapi)

    async def health(self, _request: Request) -> Response:
        """Whether the bundles can be read, and which of them cannot be sent whole."""
        models, broken, skipped = await anyio.to_thread.run_sync(self._look, limiter=self._watching)
        return _json(
            {
                "status": "degraded" if broken or skipped else "ok",
                "models": len(models),
                "skipped": skipped,
                "broken": broken,
            },
            headers={"Cache-Control": "no-store"},
        )

    def _look(self) -> tuple[Sequence[StoredModel], Mapping[str, str], Mapping[str, str]]:
        return self._store.models(), self._store.broken(), self._store.skipped()

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' text."""
        return Response(self.counters.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _request: Request) -> Response:
        """All models, the latest first."""
        models = await run_in_threadpool(self._store.models)
        releases = self._store.releases()
        listed = [
            {
                "model_id": model.manifest.model_id,
                "family": model.manifest.model["family"],
                "configurations": len(model.manifest.ladder),
                "segments": len(model.manifest.segments),
                "size_bytes": model.manifest.size_bytes,
                "follows": model.manifest.follows,
                "created": model.created.isoformat() if model.created else None,
                "line": release.line if release else None,
                "version": release.version if release else None,
            }
            for model in models
            for release in [releases.get(model.manifest.model_id)]
        ]
        return _json({"models": listed}, headers={"Cache-Control": "no-cache"})

    async def manifest(self, request: Request) -> Response:
        """The manifest, compressed if the client takes that."""
        asked = request.path_params["model_id"]
        model = await self._latest_or(request)
        model_id = model.manifest.model_id
        plain, zipped = f'"{model_id}"', f'"{model_id}-gzip"'
        is_zipped = _accepts_gzip(request.headers.get("accept-encoding", ""))
        headers = {
            "ETag": zipped if is_zipped else plain,
            "Cache-Control": "public, max-age=5" if asked == "latest" else IMMUTABLE,
            "Content-Location": f"/v1/models/{model_id}",
            "Vary": "Accept-Encoding",
        }
        if is_unmodified(request.headers.get("if-none-match"), plain, zipped):
            return Response(status_code=304, headers=headers)
        if is_zipped:
            headers["Content-Encoding"] = "gzip"
        body = model.gzipped_body if is_zipped else model.body
        return Response(body, media_type="application/json", headers=headers)

    async def release(self, request: Request) -> Response:
        """Who answers for a model; whether that is right is for a device to check."""
        model = await self._model(request.path_params["model_id"])
        release = self._store.releases().get(model.manifest.model_id)
        if release is None:
            raise HTTPException(404, f"model {model.manifest.model_id} has no signed release")
        etag = f'"{digest(release.body)}"'
        # A new one takes its place: with another expiry, or more signatures.
        headers = {"ETag": etag, "Cache-Control": "public, max-age=5"}
        if is_unmodified(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        return Response(release.body, media_type="application/json", headers=headers)

    async def plan(self, request: Request) -> Response:
        """What to send."""
        model = await self._model(request.path_params["model_id"], allow_latest=True)
        requirements, held = read_plan_request(await read_body(request))
        with self.counters.plan_seconds.time():
            document = plan(model.manifest, requirements, held).to_dict()
        if self._plan_log is not None:
            self._plan_log.write(model.manifest.model_id, requirements, document["configuration"])
        return _json(
            {"model_id": model.manifest.model_id, **document}, headers={"Cache-Control": "no-store"}
        )

    async def front(self, request: Request) -> Response:
        """The manifest and what was planned, in one: all that a device wants first."""
        model = await self._latest_or(request)
        asked = read_front_request(await read_body(request))
        with self.counters.plan_seconds.time():
            made = first_plan(model.manifest, asked.requirements, asked.held)
        if self._plan_log is not None and asked.requirements is not None:
            self._plan_log.write(
                model.manifest.model_id, asked.requirements, made.plan.configuration
            )
        release = self._store.releases().get(model.manifest.model_id)
        return await self._sender.front(
            model,
            made.segments,
            is_known=asked.manifest == model.manifest.model_id,
            release=release.body if release and asked.wants_release else None,
            part=asked.part,
        )

    async def segment(self, request: Request) -> Response:
        """One segment."""
        model = await self._model(request.path_params["model_id"])
        return await self._sender.segments(request, model, [request.path_params["sha256"]])

    async def stream(self, request: Request) -> Response:
        """Several segments, one after another."""
        model = await self._model(request.path_params["model_id"])
        text = ",".join(request.query_params.getlist("segments"))
        digests = text.split(",")
        if not all(map(is_digest, digests)):
            raise HTTPException(
                400,
                f"segments={short(text)} must be digests of segments, 64 hexadecimal digits in "
                "lower case each, with commas between them",
            )
        if len(digests) > MAX_STREAM_SEGMENTS:
            raise HTTPException(
                400,
                f"segments has {len(digests)} digests; ask for at most {MAX_STREAM_SEGMENTS} at "
                "once",
            )
        if len(set(digests)) < len(digests):
            raise HTTPException(400, "segments has a digest twice; ask for each once")
        return await self._sender.segments(request, model, digests)

    async def _latest_or(self, request: Request) -> StoredModel:
        """The model that a path names, or the latest, of a line if the query names one."""
        line = request.query_params.get("line")
        if line is not None and not LINE[0](line):
            raise HTTPException(400, f"line={short(line)} must be {LINE[1]}")
        return await self._model(request.path_params["model_id"], allow_latest=True, line=line)

    async def _model(
        self, model_id: str, *, allow_latest: bool = False, line: str | None = None
    ) -> StoredModel:
        model = None
        if allow_latest and model_id == "latest":
            model = await run_in_threadpool(self._store.latest, line)
            if model is None and line is not None:
                raise HTTPException(404, f"no model here has a release of line {short(line)}")
        elif is_digest(model_id):
            model = self._store.known(model_id)
            model = model or await run_in_threadpool(self._store.model, model_id)
        if model is None:
            raise HTTPException(
                404, f"no model {short(model_id)}; /v1/models lists those there are"
            )
        return model


def _accepts_gzip(header: str) -> bool:
    for part in header.lower().split(","):
        name, _, parameter = part.partition(";")
        if name.strip() == "gzip":
            return parameter.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII: an error may quote text that has no UTF-8 form.
    body = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def _page_route(path: str, name: str, kind: str) -> Route:
    content = (_PAGE / name).read_bytes()

    async def page(_request: Request) -> Response:
        return Response(content, media_type=kind, headers=_PAGE_HEADERS)

    return Route(path, page)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = error.detail
    if error.status_code == 404 and request.scope.get("endpoint") is None:
        text = f"no page {short(request.url.path)}; /openapi.json lists those there are"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"{short(request.method)} is not possible here; use {allowed}"
    return _json({"error": text}, error.status_code, error.headers)


async def _storage_error(request: Request, error: Exception) -> Response:
    _log.warning("%s %s: %s", request.method, request.url.path, error)
    # Where the bundles are is no business of a device's.
    if isinstance(error, SegmentError):
        # A file that is not whole will not be so in a few seconds.
        return _json({"error": str(error)}, 503, {"Cache-Control": "no-store"})
    text = "the bundles cannot be read now; the server's log says why"
    return _json({"error": text}, 503, {"Cache-Control": "no-store", "Retry-After": "5"})


async def _gone(_request: Request, _error: Exception) -> Response:
    # Nobody reads this. The status, which nginx uses too, is for the metrics: no fault of ours.
    return Response(status_code=499)


async def _internal_error(_request: Request, _error: Exception) -> Response:
    return _json({"error": "internal error; the server's log has the cause"}, 500)
