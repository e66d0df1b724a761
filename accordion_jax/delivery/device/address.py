"""Addresses whose secrets go to the server and nowhere else."""

import dataclasses
import urllib.parse

import httpx


@dataclasses.dataclass(frozen=True)
class Address:
    """A URL in parts: what lies beneath it keeps its user and its query, as signed URLs need.

    As text it has neither, since both may be secret: ``https://host/bundles/ID``.

    Attributes:
      scheme: ``http`` or ``https``.
      netloc: host and port, and a user with password where there is one.
      path: without a slash at its end.
      query: goes with each request, for instance ``sig=...``.
    """

    scheme: str
    netloc: str
    path: str
    query: str

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Returns the address of a URL; a fragment is dropped.

        Raises:
          ValueError: it is not one of http or https with a host; names it without its query.
        """
        shown = url.partition("?")[0]
        try:
            parts = urllib.parse.urlsplit(url)
            shown = _without_user(shown, parts.netloc)
            usable = httpx.URL(url).host and parts.scheme in ("http", "https")
        except (ValueError, httpx.InvalidURL):
            usable = False
        if not usable:
            raise ValueError(f"url={shown!r} must start with http:// or https:// and name a host")
        return cls(parts.scheme, parts.netloc, parts.path.rstrip("/"), parts.query)

    def under(self, path: str) -> "Address":
        """Returns the address of `path` beneath this one."""
        return dataclasses.replace(self, path=f"{self.path}/{path}")

    def without(self, ending: str) -> "Address":
        """Returns the address without an ending of its path."""
        return dataclasses.replace(self, path=self.path.removesuffix(ending))

    def url(self, query: str = "") -> str:
        """Returns what to request.

        Args:
          query: goes before the address's own.
        """
        both = "&".join(filter(None, [query, self.query]))
        return urllib.parse.urlunsplit((self.scheme, self.netloc, self.path, both, ""))

    def __str__(self) -> str:
        host = self.netloc.rpartition("@")[2]
        return urllib.parse.urlunsplit((self.scheme, host, self.path, "", ""))


def _without_user(text: str, netloc: str) -> str:
    return text.replace(netloc, netloc.rpartition("@")[2]) if "@" in netloc else text
