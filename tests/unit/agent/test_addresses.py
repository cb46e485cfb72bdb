"""Nothing is taken from a metadata service, however one is led there, nor from a node's own networks unless allowed."""

from __future__ import annotations

import socket
import threading
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_prominence.agent import addresses
from airflow_prominence.agent.addresses import EVERYWHERE, AddressRefused, Allowed

PUBLIC = Allowed()
PRIVATE = Allowed(private=True)
LOOPBACK = Allowed(loopback=True)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_never(address: str) -> None:
    with pytest.raises(AddressRefused, match="from which nothing is taken"):
        EVERYWHERE.check(address)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.7", "172.16.5.4", "192.168.1.1", "100.64.0.1", "fc00::1", "::ffff:10.0.0.7", "64:ff9b::a00:1", "0.1.2.3"],
)
def test_private_networks_where_a_site_allows_them(address: str) -> None:
    PRIVATE.check(address)
    for allowed in (PUBLIC, LOOPBACK):
        with pytest.raises(AddressRefused, match="private_network_sites"):
            allowed.check(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_loopback_where_a_site_allows_it(address: str) -> None:
    LOOPBACK.check(address)
    for allowed in (PUBLIC, PRIVATE):
        with pytest.raises(AddressRefused, match="loopback_sites"):
            allowed.check(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    PUBLIC.check(address)


class Server(ThreadingHTTPServer):
    """Redirects to ``target`` if it has one, and counts who connects."""

    target: str | None = None
    connected = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.connected += 1
        return True


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        self.send_response(302 if server.target else 200)
        if server.target:
            self.send_header("Location", server.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    both = Server(("127.0.0.1", 0), Handler), Server(("127.0.0.9", 0), Handler)
    threads = [threading.Thread(target=server.serve_forever) for server in both]
    for thread in threads:
        thread.start()
    yield both
    for server, thread in zip(both, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_redirect_is_followed_only_to_where_one_may_go(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, inner = servers
    front.target = f"http://127.0.0.9:{inner.server_port}/latest/"
    url = f"http://127.0.0.1:{front.server_port}/image.tar"
    with addresses.opener(LOOPBACK).open(url, timeout=5) as answer:
        assert answer.status == 200
    assert inner.connected == 1

    check = Allowed.check

    def no_nine(self: Allowed, address: str) -> None:
        if address == "127.0.0.9":
            raise AddressRefused("127.0.0.9 is refused")
        check(self, address)

    monkeypatch.setattr(Allowed, "check", no_nine)
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.9 is refused"):
        addresses.opener(LOOPBACK).open(url, timeout=5)
    with pytest.raises(AddressRefused):
        addresses.opener(LOOPBACK).open(front.target, timeout=5)
    # not even a connection
    assert (front.connected, inner.connected) == (2, 1)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_leads_to_http_only(servers: tuple[Server, Server], target: str) -> None:
    front, _ = servers
    front.target = target
    with pytest.raises(urllib.error.URLError):
        addresses.opener(EVERYWHERE).open(f"http://127.0.0.1:{front.server_port}/", timeout=5)


def test_a_name_is_looked_up_once_and_its_allowed_addresses_are_tried(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, inner = servers
    answers = [("169.254.169.254", front.server_port), ("127.0.0.1", front.server_port)]
    asked = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", answer) for answer in answers]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    addresses.connect(("data.example", front.server_port), 5, LOOPBACK).close()
    assert asked == ["data.example"]
    answers.pop()
    with pytest.raises(AddressRefused, match=r"169\.254\.169\.254"):
        addresses.connect(("data.example", front.server_port), 5, LOOPBACK)
    assert inner.connected == 0
