"""HTTP to the API: one kept connection, JSON or raw bodies, and errors named by what the caller must do."""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import urllib.parse
from typing import Any

CONNECT_S = 10.0


class Unreachable(Exception):
    """No answer, or one that says nothing about the request (5xx): try again later."""


class Refused(Exception):
    """The API has answered and will not change its mind."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}")
        self.status = status
        self.sentence = sentence


class Backoff:
    """Growing pauses with full jitter, so that a thousand agents do not come back in the same second."""

    def __init__(self, first_s: float = 0.2, most_s: float = 5.0) -> None:
        self._first = first_s
        self._most = most_s
        self._next = first_s

    def reset(self) -> None:
        self._next = self._first

    def pause(self) -> float:
        ceiling = self._next
        self._next = min(self._next * 2, self._most)
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - jitter, not a secret


class Connection:
    """One connection to one base URL, opened when first needed and again after any failure."""

    def __init__(self, base: str, timeout_s: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: {base!r} is not an http or https address")
        self._parts = parts
        self._path = parts.path.rstrip("/")
        self._timeout = timeout_s
        self._http: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _open(self) -> http.client.HTTPConnection:
        if self._http is None:
            host = str(self._parts.hostname)
            if self._parts.scheme == "https":
                self._http = http.client.HTTPSConnection(
                    host, self._parts.port, timeout=self._timeout, context=ssl.create_default_context()
                )
            else:
                self._http = http.client.HTTPConnection(host, self._parts.port, timeout=self._timeout)
            self._http.connect()
            self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._http

    @property
    def fd(self) -> int:
        """To wait for an answer together with other things."""
        if self._http is None or self._http.sock is None:
            raise Unreachable("not connected")
        return int(self._http.sock.fileno())

    def send(self, method: str, path: str, token: str, body: bytes, kind: str = "application/json") -> None:
        headers = {"Authorization": "Bearer " + token, "Content-Type": kind, "Content-Length": str(len(body))}
        fresh = self._http is None
        try:
            self._open().request(method, self._path + path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh:
                raise Unreachable(_sentence(error)) from error
            # the server had closed the kept connection; a new one tells whether it is really down
            self.send(method, path, token, body, kind)

    def receive(self) -> dict[str, Any]:
        if self._http is None:
            raise Unreachable("not connected")
        try:
            answer = self._http.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(_sentence(error)) from error
        if answer.will_close:
            self.close()
        if answer.status >= 500 or answer.status == 429:
            raise Unreachable(f"HTTP {answer.status}")
        try:
            found = json.loads(raw) if raw else {}
        except ValueError as error:
            raise Unreachable(f"HTTP {answer.status} without JSON") from error
        if not isinstance(found, dict):
            raise Unreachable(f"HTTP {answer.status} without a JSON object")
        if answer.status >= 300:
            raise Refused(answer.status, str(found.get("error", found)))
        return found

    def call(
        self, method: str, path: str, token: str, body: bytes, kind: str = "application/json", tries: int = 2
    ) -> dict[str, Any]:
        """One request and its answer. All that is sent is idempotent: a kept connection that dies is tried anew."""
        kept = self._http is not None
        self.send(method, path, token, body, kind)
        try:
            return self.receive()
        except Unreachable:
            if self._http is not None or not kept or tries < 2:
                raise
            return self.call(method, path, token, body, kind, tries - 1)


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
