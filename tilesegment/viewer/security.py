"""Who may ask the viewer: a token in the address, the names under which it is reached, and headers for the browser."""

import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping

TOKEN = re.compile(r"[0-9A-Za-z_-]{22,64}")
# the page loads nothing from elsewhere, and no other page may frame it; OpenSeadragon and overlays set styles
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Server": "tilesegment",
}


def new_token() -> str:
    """Return 128 random bits for an address."""
    return secrets.token_urlsafe(16)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Names:
    """The names under which the server may be asked.

    A page of a stranger can let its own name point to this machine (DNS rebinding): its requests carry that name. So on
    the loopback only `localhost` and loopback addresses are served, else also any numeric address, which cannot be
    rebound, and the names of the machine. The port is free: a tunnel may change it.
    """

    def __init__(self, host: str) -> None:
        self._any_number = not is_loopback(host)
        self._known = {"localhost"}
        if self._any_number:
            self._known |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    def allows_host(self, host: str) -> bool:
        """Whether a request with this header `Host` is served."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d{1,5})?", host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        try:
            number = ipaddress.ip_address(name)
        except ValueError:
            return name in self._known
        return number.is_loopback or self._any_number

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """Whether a request from a page of `origin` (None: not from a page, or from the same) is served to `host`."""
        return origin is None or origin == f"http://{host}"
