"""Who may connect: host, origin and token, checked before a websocket is accepted; and how fast.

Easy to get wrong: a page of any site may open a websocket to this machine, and a name of any site may be made to point
at it (DNS rebinding).  So the Host must be an address or a known name, and an Origin must be this very host.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from wcsim.errors import ConfigError

COOKIE = "wcsim_token"
SHORTEST = 16


@dataclass(frozen=True, slots=True)
class Access:
    """token: that clients must send; None: nobody but this machine can connect.  names: hosts besides addresses."""

    token: str | None
    names: frozenset[str]

    def refusal(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str | None:
        """Why a request with these headers (lower case) is refused; None: it is not."""
        why = self.wrong_host(headers)
        if why is None and not self.knows(headers, cookies):
            return "a token is needed"
        return why

    def wrong_host(self, headers: Mapping[str, str]) -> str | None:
        """Why a Host or Origin is refused."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._known(host):
            return "an unknown Host"
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "a foreign Origin"
        return None

    def knows(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether the token is there, where one is needed."""
        bearer = headers.get("authorization", "")
        return self.token is None or self.matches(bearer.removeprefix("Bearer ")) or self.matches(
            cookies.get(COOKIE, ""))

    def matches(self, given: str) -> bool:
        """Whether this is the token; takes as long for any."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or is_address(name)


def access_of(host: str, token: str | None, allowed: list[str]) -> Access:
    """What a server bound to `host` demands; ConfigError for another host than this machine without a token."""
    if token is None and not is_loopback(host):
        raise ConfigError(f"--host {host} can be reached from other machines; give a --token, or WCSIM_TOKEN")
    if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable() or (
            set(token) & set(' ;,"\\'))):
        raise ConfigError(f"a token is printable ASCII without spaces, quotes, commas or semicolons, at least "
                          f"{SHORTEST} characters")
    return Access(token, frozenset({"localhost", host.lower(), socket.gethostname().lower(), *map(str.lower, allowed)}))


def is_address(host: str) -> bool:
    """Whether a host is an IP address, which nobody can make point elsewhere."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


class Pace:
    """Lets `rate` requests a second through, and as many at once; the others wait."""

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._seen = rate, rate, time.monotonic()

    async def wait(self) -> None:
        """Return when the next request may be read."""
        now = time.monotonic()
        self._left = min(self._rate, self._left + (now - self._seen) * self._rate)
        self._seen = now
        self._left -= 1
        if self._left < 0:
            await asyncio.sleep(-self._left / self._rate)
