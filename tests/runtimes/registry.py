"""A small image registry on loopback: the pull half of the distribution protocol, with authorisation and bad days."""

import base64
import gzip
import hashlib
import json
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from airflow_prominence.agent.images.build import ImageConfig, image_config
from airflow_prominence.agent.images.platforms import architecture

OCI = "application/vnd.oci.image."


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """Holds blobs and tags; `fail` maps a path's beginning to how many times it shall answer 503 first.

    With `certificate`, a file with a key and its certificate, it speaks TLS.
    """

    def __init__(
        self, credential: tuple[str, str] | None = None, bearer: bool = True, certificate: str | None = None
    ) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.fail: Counter[str] = Counter()
        self.damage: set[str] = set()
        self.seen: list[str] = []
        self._credential = credential
        self._bearer = bearer
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # Shaken hands in the thread of each connection, or who hangs up in between would stop all.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def push(self, name: str, config: ImageConfig, layers: list[bytes], index: bool = False) -> str:
        """Add an image as `repository:tag`; returns its manifest's digest."""
        document = image_config(config, layers)
        packed = [gzip.compress(data, mtime=0) for data in layers]
        for blob in [document, *packed]:
            self.blobs[digest(blob)] = blob
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": {"digest": digest(document), "size": len(document)},
            "layers": [{"digest": digest(blob), "size": len(blob)} for blob in packed],
        }
        repository, _, tag = name.partition(":")
        top = self._store(repository, OCI + "manifest.v1+json", manifest)
        if index:
            entries = [
                {"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}},
                {"digest": top, "platform": {"os": "linux", "architecture": architecture()}},
            ]
            top = self._store(repository, OCI + "index.v1+json", {"schemaVersion": 2, "manifests": entries})
        self.manifests[f"{repository}/{tag}"] = self.manifests[f"{repository}/{top}"]
        return top

    def _store(self, repository: str, kind: str, document: dict[str, Any]) -> str:
        data = json.dumps(document).encode()
        self.manifests[f"{repository}/{digest(data)}"] = (kind, data)
        return digest(data)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.seen.append(path)
        for start, left in list(self.fail.items()):
            if path.startswith(start) and left > 0:
                self.fail[start] -= 1
                return self._send(request, 503, b"busy")
        if path == "/token":
            return self._token(request)
        if not self._allowed(request):
            scheme = f'Bearer realm="http://{self.host}/token",service="test"' if self._bearer else 'Basic realm="test"'
            return self._send(request, 401, b"{}", {"WWW-Authenticate": scheme})
        if "/blobs/" in path:
            wanted = path.rsplit("/", 1)[-1]
            blob = self.blobs.get(wanted)
            if blob is not None and wanted in self.damage:
                self.damage.discard(wanted)
                blob = blob[:-1] + b"?"
            return self._send(request, 404 if blob is None else 200, blob or b"")
        repository, _, wanted = path[len("/v2/") :].partition("/manifests/")
        kind, data = self.manifests.get(f"{repository}/{wanted}", ("", b""))
        return self._send(request, 200 if data else 404, data, {"Content-Type": kind})

    def _basic(self) -> str:
        assert self._credential is not None
        return "Basic " + base64.b64encode(":".join(self._credential).encode()).decode()

    def _token(self, request: BaseHTTPRequestHandler) -> None:
        if self._credential and request.headers.get("Authorization") != self._basic():
            return self._send(request, 401, b"{}")
        return self._send(request, 200, json.dumps({"token": "good"}).encode())

    def _allowed(self, request: BaseHTTPRequestHandler) -> bool:
        given = request.headers.get("Authorization")
        if self._credential is None:
            return True
        return given == ("Bearer good" if self._bearer else self._basic())

    def _send(
        self, request: BaseHTTPRequestHandler, code: int, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(code)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
