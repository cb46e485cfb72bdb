"""A web server with files and everything that can go wrong with one, each fault counted down as it is used."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from typing_extensions import Self


@dataclass
class File:
    """One file and how it is served; each number says how many more requests get that fault."""

    data: bytes
    etag: str | None = ""  # empty: made of the data; None: no validator at all
    last_modified: str | None = None
    ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes that the next requests get before the line is cut
    refusals: list[int] = field(default_factory=list)  # statuses of the next requests
    retry_after: str | None = None
    announced: int | None = None  # a Content-Length that is not true
    chunked: bool = False
    pause_s: float = 0.0  # after each piece
    piece: int = 65536
    redirect: str | None = None
    swaps: list[bytes] = field(default_factory=list)  # what the data becomes after the next requests
    ignores_conditions: bool = False

    @property
    def tag(self) -> str | None:
        if self.etag == "":
            return '"' + hashlib.sha256(self.data).hexdigest()[:16] + '"'
        return self.etag


@dataclass
class Asked:
    """A request, and how many bytes of a file it was sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class FileServer:
    """Start it with `with FileServer() as files:`; `files.url("x")` is where `files.add("x", ...)` is served."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.files: dict[str, File] = {}
        self.asked: list[Asked] = []
        self.stored: dict[str, bytes] = {}
        self.put_refusals: list[int] = []
        self.put_breaks = 0
        self.lock = threading.Lock()
        self._server = _server(self, address)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def base(self) -> str:
        return f"http://{self._server.server_address[0]!s}:{self.port}"

    def add(self, name: str, data: bytes, **how: Any) -> str:
        self.files["/" + name] = File(data, **how)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def gets(self, name: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET" and asked.path == "/" + name]

    def bytes_sent(self, name: str) -> int:
        return sum(asked.sent for asked in self.gets(name))


class _Cut(Exception):
    pass


def _server(files: FileServer, address: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            asked = Asked("GET", path, {name.lower(): value for name, value in self.headers.items()})
            with files.lock:
                files.asked.append(asked)
                file = files.files.get(path)
                if file is None:
                    return self._plain(asked, 404)
                if file.refusals:
                    return self._plain(asked, file.refusals.pop(0), file.retry_after)
                breaks = file.breaks_after.pop(0) if file.breaks_after else None
                data, tag = file.data, file.tag
                if file.swaps:
                    file.data = file.swaps.pop(0)
            if file.redirect:
                self._head(asked, 302, {"Location": file.redirect, "Content-Length": "0"})
                return None
            try:
                self._serve(asked, file, data, tag, breaks)
            except (_Cut, BrokenPipeError, ConnectionResetError):
                # a reset, as a router or a killed server makes one: no polite end that could be taken for the file's
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            return None

        def _serve(self, asked: Asked, file: File, data: bytes, tag: str | None, breaks: int | None) -> None:
            headers = {"Accept-Ranges": "bytes" if file.ranges else "none"}
            if tag is not None:
                headers["ETag"] = tag
            if file.last_modified is not None:
                headers["Last-Modified"] = file.last_modified
            unchanged = tag is not None and asked.headers.get("if-none-match") == tag
            since = asked.headers.get("if-modified-since")
            unchanged = unchanged or (since is not None and since == file.last_modified)
            if unchanged and not file.ignores_conditions:
                self._head(asked, 304, headers)
                return
            start, status = 0, 200
            wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
            condition = asked.headers.get("if-range")
            if wanted and file.ranges and condition in (None, tag, file.last_modified):
                start, status = int(wanted[1]), 206
                if start >= len(data):
                    self._head(asked, 416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
                    return
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if file.chunked:
                headers["Transfer-Encoding"] = "chunked"
            else:
                headers["Content-Length"] = str(len(data) - start if file.announced is None else file.announced)
            self._head(asked, status, headers)
            end = len(data) if breaks is None else min(len(data), start + breaks)
            while start < end:
                piece = data[start : min(end, start + file.piece)]
                framed = b"%x\r\n%s\r\n" % (len(piece), piece) if file.chunked else piece
                self.wfile.write(framed)
                asked.sent += len(piece)
                start += len(piece)
                if file.pause_s:
                    time.sleep(file.pause_s)
            if breaks is not None:
                self.wfile.flush()
                time.sleep(0.05)  # let it arrive before the reset overtakes it
                raise _Cut
            if file.chunked:
                self.wfile.write(b"0\r\n\r\n")
            if file.announced is not None:
                self.close_connection = True

        def do_PUT(self) -> None:
            asked = Asked("PUT", unquote(self.path), {name.lower(): value for name, value in self.headers.items()})
            size = int(self.headers["Content-Length"])
            with files.lock:
                files.asked.append(asked)
                refusal = files.put_refusals.pop(0) if files.put_refusals else 0
                cut = files.put_breaks > 0
                files.put_breaks -= cut
            if cut:
                self.rfile.read(min(size, 65536))
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return None
            data = self.rfile.read(size)
            asked.sent = len(data)
            if refusal:
                return self._plain(asked, refusal)
            with files.lock:
                files.stored[asked.path.partition("?")[0]] = data
            return self._plain(asked, 201)

        def _plain(self, asked: Asked, status: int, retry_after: str | None = None) -> None:
            headers = {"Content-Length": "0"}
            if retry_after is not None:
                headers["Retry-After"] = retry_after
            self._head(asked, status, headers)

        def _head(self, asked: Asked, status: int, headers: dict[str, str]) -> None:
            asked.status = status
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that are killed are part of these tests."""

    return Server((address, 0), Handler)
