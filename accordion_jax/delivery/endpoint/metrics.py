"""What the endpoint counts, in Prometheus' text format."""

import prometheus_client
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accordion_jax.delivery.endpoint.plan_log import PlanLog


class Metrics:
    """Counters of one application. Each has its own registry, so that several can live together."""

    def __init__(self, plan_log: PlanLog | None = None):
        self.registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "accordion_requests",
            "Requests that were answered.",
            ["route", "status"],
            registry=self.registry,
        )
        self.sent_bytes = prometheus_client.Counter(
            "accordion_sent_bytes", "Bytes of bodies.", ["route"], registry=self.registry
        )
        self.plan_seconds = prometheus_client.Histogram(
            "accordion_plan_seconds",
            "Time that planning takes, without HTTP.",
            buckets=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2, 0.1),
            registry=self.registry,
        )
        # Responses of several chunks of segments that are being sent now.
        self.sending: set[object] = set()
        in_flight = prometheus_client.Gauge(
            "accordion_segments_in_flight",
            "Responses of several chunks of segments that are being sent now.",
            registry=self.registry,
        )
        in_flight.set_function(lambda: len(self.sending))
        if plan_log is not None:
            lost = prometheus_client.Gauge(
                "accordion_plan_log_lost",
                "Lines of the log of plans that could not be written.",
                registry=self.registry,
            )
            lost.set_function(lambda: plan_log.lost)

    def text(self) -> bytes:
        """Returns all of them, as Prometheus reads them."""
        return prometheus_client.generate_latest(self.registry)


class CountRequests:
    """ASGI middleware that counts every request by route and status.

    The label is the route's name, not the path: paths are without number.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, sent = 500, 0

        async def counting_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.sent_bytes.labels(route).inc(sent)
