"""What the API hears of one order from the process that carries it out: what it wrote, and how it ended."""

from __future__ import annotations

import time
from typing import Any

from .wire import Backoff, Connection, Refused, Unreachable, encode

ANSWER_S = 5.0
END_PATIENCE_S = 120.0


class Answers:
    """Raises nothing: an API that is away is waited for, and one that wants no more says so by a reason to stop."""

    def __init__(self, url: str, token_file: str, order: str) -> None:
        self._connection = Connection(url, timeout_s=ANSWER_S)
        self._token_file = token_file
        self._path = f"/commands/{order}"
        self.offset = 0

    def beat(self) -> str | None:
        """A sign of life; why to stop, if there is a reason."""
        try:
            return self._put(b"")
        except Unreachable:
            return None

    def write(self, data: bytes, until: float) -> str | None:
        """Deliver a piece of output, trying until the moment `until` (monotonic); why to stop, if there is a reason."""
        backoff = Backoff()
        end = self.offset + len(data)
        while self.offset < end:
            try:
                stop = self._put(data[len(data) - (end - self.offset) :])
                if stop is not None:
                    return stop
            except Unreachable as error:
                if time.monotonic() > until:
                    return f"the API was not reached: {error}"
                time.sleep(backoff.pause())
        return None

    def end(self, exit_code: int | None, error: str | None) -> None:
        """Tell how it ended, for as long as anybody could want to know."""
        backoff = Backoff()
        until = time.monotonic() + END_PATIENCE_S
        body = encode({"exit_code": exit_code, "error": error})
        while True:
            try:
                self._connection.call("POST", self._path + "/end", self.token(), body)
                return
            except Refused as refused:
                print(f"the end was refused: {refused}")
                return
            except Unreachable as unreachable:
                if time.monotonic() > until:
                    print(f"the end could not be told: {unreachable}")
                    return
                time.sleep(backoff.pause())

    def _put(self, data: bytes) -> str | None:
        path = f"{self._path}/output?offset={self.offset}"
        try:
            answer: dict[str, Any] = self._connection.call("PUT", path, self.token(), data, "application/octet-stream")
        except Refused as refused:
            return str(refused)
        wanted = int(answer["offset"])
        if wanted < self.offset:
            return "the API has lost a part of the output"
        self.offset = wanted
        stop = answer.get("stop")
        return None if stop is None else str(stop)

    def token(self) -> str:
        """The node's own; raises Unreachable."""
        try:
            with open(self._token_file, encoding="utf-8") as handle:
                return handle.read().strip()
        except OSError as error:
            raise Unreachable(f"token file: {error}") from error
