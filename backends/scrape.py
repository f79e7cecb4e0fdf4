"""Reading what a model server says of itself: its page of Prometheus metrics."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from backends.errors import FloorError

_TIMEOUT_S: Final = 5.0


class MetricsUnreadable(FloorError):
    """A server's metrics cannot be read."""


class Scraper:
    """Reads the metrics of one server again and again over one connection; close it, or use it in a `with`.

    Args:
        endpoint: its address in the policy, ending with `/v1`; the page is `/metrics` at its root.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self.url = urlunsplit((parts.scheme, parts.netloc, "/metrics", "", ""))
        self._client = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)

    def read(self) -> str:
        """Return the page.

        Raises:
            MetricsUnreadable: it does not answer, or not with 200.
        """
        try:
            reply = self._client.get(self.url)
        except httpx.HTTPError as error:
            raise MetricsUnreadable(f"{self.url} does not answer ({error}); is the server up?") from error
        if reply.status_code != 200:
            raise MetricsUnreadable(
                f"{self.url} answers {reply.status_code}; only servers with metrics can be measured"
            )
        return reply.text

    def __enter__(self) -> Scraper:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()
