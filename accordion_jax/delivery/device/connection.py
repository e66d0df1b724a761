"""How a device gets out: through the proxies of its environment, on a link as slow as asked for.

And how it asks: each request by itself, where redirects lead, and again where a connection is lost.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import httpx

from accordion_jax.delivery.device import answers
from accordion_jax.delivery.device.retries import Retries
from accordion_jax.delivery.errors import ConnectionLostError, RefusedError, TransportError
from accordion_jax.delivery.links.clock import Clock
from accordion_jax.delivery.links.link import slowed

_T = TypeVar("_T")
_MOST_REDIRECTS = 5


@dataclasses.dataclass(frozen=True)
class Connection:
    """A client, and how patient it is.

    Attributes:
      client: sends requests.
      timeout_s: without a byte, before a connection counts as lost.
      retries: how long to keep trying.
      clock: waits between attempts.
    """

    client: httpx.Client
    timeout_s: float
    retries: Retries
    clock: Clock

    @contextlib.contextmanager
    def answer(
        self,
        url: str,
        name: str,
        headers: Mapping[str, str],
        until_s: float,
        *,
        body: bytes | None = None,
    ) -> Iterator[httpx.Response]:
        """Yields an answer of success, its body unread; goes where redirects lead.

        Args:
          url: to ask.
          name: of it, for errors.
          headers: of the request.
          until_s: moment of the clock at which to give up, as far as a time-out can.
          body: JSON to POST; None: a GET.

        Raises:
          RefusedError: the server says no, or redirects to nowhere or too often.
          ConnectionLostError: the connection is lost, or the server is busy.
        """
        method = "GET" if body is None else "POST"
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        timeout_s = max(min(self.timeout_s, until_s - self.clock.now()), 0.001)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                # Not by the client: it would read what comes with a redirect, however long.
                with self.client.stream(
                    method,
                    url,
                    headers=headers,
                    content=body,
                    timeout=timeout_s,
                    follow_redirects=False,
                ) as response:
                    if response.status_code not in answers.REDIRECTS:
                        answers.check_status(response, name, ranged="Range" in headers)
                        yield response
                        return
                    url = answers.redirected(response, name)
            raise RefusedError(f"{name} redirects more than {_MOST_REDIRECTS} times")
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise RefusedError(f"{name}: {error}") from error
        except httpx.HTTPError as error:
            raise ConnectionLostError(f"{name}: {type(error).__name__}: {error}") from error

    def patiently(self, ask: Callable[[], _T], until_s: float) -> _T:
        """Returns what `ask` does, tried again where a connection is lost.

        Raises:
          ConnectionLostError: as `wait_or_give_up`.
        """
        failures = 0
        while True:
            try:
                return ask()
            except ConnectionLostError as error:
                failures += 1
                self.wait_or_give_up(failures, error, until_s)

    def wait_or_give_up(self, failures: int, error: ConnectionLostError, until_s: float) -> None:
        """Waits before the next attempt.

        Args:
          failures: attempts in a row without progress.
          error: of the last one.
          until_s: moment of the clock at which to give up.

        Raises:
          ConnectionLostError: it is time to give up; names the last failure.
        """
        if failures >= self.retries.attempts or self.clock.now() >= until_s:
            raise ConnectionLostError(
                f"gave up after {failures} attempts without a new byte; the last: {error}"
            ) from error
        wait_s = max(self.retries.wait_s(failures), error.retry_after_s)
        self.clock.sleep(min(wait_s, until_s - self.clock.now()))


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
