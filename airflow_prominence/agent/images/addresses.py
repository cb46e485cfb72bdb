"""Which addresses an image or artifact may never come from, whatever a name resolves to or a server redirects to.

A cloud's metadata service answers at a link-local address and gives the VM's own credentials to whoever asks from it;
the agent asks in a user's name, so it must not.
"""

import http.client
import ipaddress
import socket
import urllib.request
from typing import Any

from .model import PullError

#: Metadata services that are not link-local: EC2's IPv6 address and Alibaba's.
_METADATA = (ipaddress.ip_network("fd00:ec2::254/128"), ipaddress.ip_network("100.100.100.200/32"))


def is_forbidden(address: str) -> bool:
    """Tell whether a numeric address is link-local or a cloud's metadata service."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_link_local or any(found in network for network in _METADATA)


def _connect(*args: Any, **kwargs: Any) -> socket.socket:
    # Looked at once the connection stands and before a byte is sent: a name that resolves to another address the
    # second time one looks can't slip through.
    connection = socket.create_connection(*args, **kwargs)
    peer = str(connection.getpeername()[0])
    if is_forbidden(peer):
        connection.close()
        raise PullError(f"image: {peer} is a link-local or metadata address, from which nothing is taken")
    return connection


class _Http(http.client.HTTPConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _Https(http.client.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, req)


def opener() -> urllib.request.OpenerDirector:
    """An opener that refuses forbidden addresses with ``PullError``, at first hand and behind every redirect."""
    return urllib.request.build_opener(_HttpHandler, _HttpsHandler)
