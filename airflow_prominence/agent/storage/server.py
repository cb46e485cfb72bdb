"""Storage servers as users name them: what artifacts may not come from must not be mounted either."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlsplit

from ..addresses import AddressRefused, Allowed
from .model import Unmountable


def check_url(url: str, allowed: Allowed) -> None:
    """Raise Unmountable if the URL's host may not be reached."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return  # the proxy looks the name up, and is the site's own
    check_host(host, parts.port or (443 if parts.scheme == "https" else 80), allowed)


def check_host(host: str, port: int, allowed: Allowed) -> None:
    """Raise Unmountable if the host has no address, or one that is closed to what users ask for."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unmountable(f"{host} has no address") from None
    for *_, address in found:
        try:
            allowed.check(str(address[0]))
        except AddressRefused as error:
            raise Unmountable(str(error), final=True) from None
