"""How a device gets out: through the proxies of its environment, on a link as slow as asked for."""

import httpx

from accordion_jax.delivery.errors import TransportError
from accordion_jax.delivery.links.link import slowed


def environment_client(
    *, rate_bps: float | None = None, trace: str | None = None, latency_s: float = 0.0
) -> httpx.Client:
    """Returns a client that goes through the proxies that HTTP_PROXY and its like name.

    Args:
      rate_bps: as `slowed`.
      trace: as `slowed`.
      latency_s: as `slowed`.

    Raises:
      TransportError: these settings cannot be used; says what is wrong.
      ValueError, FileNotFoundError: as `slowed`.
    """
    try:
        client = httpx.Client()
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise TransportError(
            f"the proxy settings of the environment cannot be used: {error}. Change or unset "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
        ) from error
    whole = _Through(client)
    slow = slowed(whole, rate_bps=rate_bps, trace=trace, latency_s=latency_s)
    return client if slow is whole else httpx.Client(transport=slow)


class _Through(httpx.BaseTransport):
    """A client as a transport: a transport of its own would pass the proxies by."""

    def __init__(self, client: httpx.Client):
        self._client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request as the client does."""
        return self._client.send(request, stream=True, follow_redirects=False)

    def close(self) -> None:
        """Closes the client."""
        self._client.close()
