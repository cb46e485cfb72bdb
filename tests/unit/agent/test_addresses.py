"""Nothing is taken from a metadata service, however one is led there."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_prominence.agent.images import addresses
from airflow_prominence.agent.images.model import PullError


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("100.100.100.201", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.0.0.7", False),
        ("192.0.2.1", False),
    ],
)
def test_addresses(address: str, forbidden: bool) -> None:
    assert addresses.is_forbidden(address) is forbidden


class Server(ThreadingHTTPServer):
    """Redirects to ``target`` if it has one, and counts who asks."""

    target: str | None = None
    asked = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked += 1
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
    front, metadata = servers
    front.target = f"http://127.0.0.9:{metadata.server_port}/latest/"
    url = f"http://127.0.0.1:{front.server_port}/image.tar"
    with addresses.opener().open(url, timeout=5) as answer:
        assert answer.status == 200
    assert metadata.asked == 1

    monkeypatch.setattr(addresses, "_METADATA", (ipaddress.ip_network("127.0.0.9/32"),))
    with pytest.raises(PullError, match=r"127\.0\.0\.9 is a link-local or metadata address"):
        addresses.opener().open(url, timeout=5)
    with pytest.raises(PullError):
        addresses.opener().open(front.target, timeout=5)
    assert (front.asked, metadata.asked) == (2, 1)
