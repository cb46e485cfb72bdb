"""Outputs' way into the object store, each by a URL of its own."""

from __future__ import annotations

import hashlib
import io
import os
import time
from dataclasses import dataclass, field

from ..addresses import EVERYWHERE
from ..wire import Backoff, Connection, Refused, Unreachable, encode
from . import web
from .keeping import NOT_STORED, TRIES, Destination, Keeper, StageOutFailed

#: How long an API that does not answer is asked for where to send a file, in seconds: a server that is being mended.
PATIENCE_S = 3600.0
#: What a new URL will not change.
_FINAL = (409, 413)


@dataclass(frozen=True)
class ObjectStore(Destination):
    """`folder` in the object store, by URLs that the API at `url` gives to whoever has `token`."""

    folder: str
    url: str = field(repr=False)
    token: str = field(repr=False)
    ca_file: str | None

    def open(self) -> Keeper:
        return _Uploads(self)


class _Uploads(Keeper):
    """Always by a fresh URL: none is ever too old."""

    def __init__(self, destination: ObjectStore) -> None:
        self._destination = destination
        certificates = web.certificates(destination.ca_file)
        self._reach = web.Reach(EVERYWHERE, certificates)

    def shown(self, file: str) -> str:
        return file

    def store(self, file: str, source: int) -> tuple[int, str, int]:
        size = os.fstat(source).st_size
        backoff = Backoff(1.0, 15.0)
        tries = 0
        while True:
            tries += 1
            body = _Counted(source, size)
            try:
                web.put(self._url(file), body, size, self._reach)  # type: ignore[arg-type] # what of it is used
                return size, body.sha256, tries
            except Unreachable as error:
                sentence = str(error)
            except Refused as error:
                sentence = error.sentence
                if error.status in _FINAL:
                    raise StageOutFailed(NOT_STORED, sentence) from error
            if tries >= TRIES:
                raise StageOutFailed(NOT_STORED, f"{sentence}; given up after {tries} tries")
            time.sleep(backoff.pause())

    def _url(self, file: str) -> str:
        wanted = encode({"name": f"{self._destination.folder}/{file}"})
        connection = Connection(self._destination.url)
        backoff = Backoff()
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = connection.call("POST", "", self._destination.token, wanted)
                return str(answer["url"])
            except Unreachable as error:
                if time.monotonic() > end:
                    raise StageOutFailed(NOT_STORED, f"the API does not say where to: {error}") from error
                time.sleep(backoff.pause())
            except Refused as error:
                raise StageOutFailed(NOT_STORED, f"the API does not say where to: {error.sentence}") from error
            finally:
                connection.close()


class _Counted(io.RawIOBase):
    """A file that is sent, from its beginning each time, and its checksum when all of it has gone."""

    def __init__(self, source: int, size: int) -> None:
        super().__init__()
        self._source = source
        self._size = size
        self.seek(0)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._digest = hashlib.sha256()
        self._sent = 0
        return os.lseek(self._source, offset, whence)

    def read(self, size: int = -1) -> bytes:
        wanted = min(size if size >= 0 else self._size, self._size - self._sent)
        data = os.read(self._source, wanted) if wanted else b""
        self._digest.update(data)
        self._sent += len(data)
        return data
