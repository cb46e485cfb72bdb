"""Which addresses the agent may fetch from in a user's name, whatever a name resolves to or a server redirects to.

A cloud's metadata service answers at a link-local address and gives the VM's own credentials to whoever asks from it;
services on a node's loopback and in its private network trust whoever can reach them. The agent asks on behalf of
users, so it must not be their way in: the first are never reached, the others where a site's settings say so.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import urllib.request
from dataclasses import dataclass
from typing import Any, Union

_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

#: Metadata services that are not link-local, of EC2, Google and Oracle by IPv6, of Alibaba and Azure by IPv4.
METADATA = (
    ipaddress.ip_network("fd00:ec2::254/128"),
    ipaddress.ip_network("fd20:ce::254/128"),
    ipaddress.ip_network("fd00:c1::a9fe:a9fe/128"),
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("168.63.129.16/32"),
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(Exception):
    """Nothing may be fetched from there; one sentence says why and, where one does, which setting would allow it."""


@dataclass(frozen=True)
class Allowed:
    """What a site's nodes may fetch from beside public addresses; `hosts` (`name:port`) are the node's admin's own."""

    private: bool = False
    loopback: bool = False
    hosts: frozenset[str] = frozenset()

    def check(self, address: str) -> None:
        """Raise AddressRefused if nothing may be fetched from this numeric address."""
        found = _meant(ipaddress.ip_address(address.partition("%")[0]))
        if found.is_link_local or any(found in network for network in METADATA):
            raise AddressRefused(f"{address} is a link-local or metadata address, from which nothing is taken")
        if found.is_multicast:
            raise AddressRefused(f"{address} is a multicast address, from which nothing is taken")
        if found.is_loopback or found.is_unspecified:
            if not self.loopback:
                raise AddressRefused(
                    f"{address} is a loopback address of the node, which the setting loopback_sites does not allow here"
                )
        elif not found.is_global and not self.private:
            raise AddressRefused(
                f"{address} is in a private network, which the setting private_network_sites does not allow here"
            )


EVERYWHERE = Allowed(private=True, loopback=True)
PUBLIC_ONLY = Allowed()


def _meant(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def connect(address: tuple[str, int], timeout_s: float, allowed: Allowed) -> socket.socket:
    """Connect to a host; raises AddressRefused or OSError.

    Its name is looked up once, and the connection goes to an address that was looked at: a name that resolves to
    another one the second time can't slip through.
    """
    host, port = address
    # The admin named the host, which may be anywhere but at a metadata service.
    allowed = EVERYWHERE if f"{host}:{port}" in allowed.hosts else allowed
    if _is_numeric(host):
        allowed.check(host)  # whether or not this machine could go there
    last: Exception = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = None
        try:
            allowed.check(str(place[0]))
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(timeout_s)
            connection.connect(place)
            return connection
        except (AddressRefused, OSError) as error:
            if connection is not None:
                connection.close()
            last = error
    raise last


def _classes(allowed: Allowed) -> tuple[type[http.client.HTTPConnection], type[http.client.HTTPSConnection]]:
    def create(address: tuple[str, int], timeout: Any = None, *_: Any) -> socket.socket:
        return connect(address, float(timeout) if isinstance(timeout, (int, float)) else 30.0, allowed)

    class Http(http.client.HTTPConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._create_connection = create

    class Https(http.client.HTTPSConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._create_connection = create

    return Http, Https


def connection(
    scheme: str, host: str, port: int | None, timeout_s: float, allowed: Allowed, context: ssl.SSLContext | None = None
) -> http.client.HTTPConnection:
    """An HTTP connection to be opened by its first request, to an address that is allowed then."""
    plain, secure = _classes(allowed)
    # without a port they would take the end of an IPv6 address for one
    if scheme == "https":
        return secure(host, port or secure.default_port, timeout=timeout_s, context=context)
    return plain(host, port or plain.default_port, timeout=timeout_s)


def opener(allowed: Allowed, context: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    """An opener of http and https URLs that refuses addresses at first hand and behind every redirect.

    `context` says which certificates are trusted, if others than the system's are.
    """
    plain, secure = _classes(allowed)

    class HttpHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(plain, req)

    class HttpsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(secure, req, context=context)

    made = urllib.request.OpenerDirector()
    # Not build_opener's choice: it adds file: and ftp:, to which a server could redirect.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        HttpHandler(),
        HttpsHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        made.add_handler(handler)
    return made
