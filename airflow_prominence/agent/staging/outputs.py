"""One output of a job on its way to the object store: found in the job's folders, packed if it is a folder, stored."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Any, Mapping

from ..addresses import EVERYWHERE
from ..assignment import Output
from ..pack import TooLarge, pack
from ..runtimes.base import HOME
from ..users import User
from ..wire import Backoff, Connection, Refused, Unreachable, encode
from ..within import NotThere
from . import web
from .artifacts import shown_size
from .asuser import ChildDied, as_user
from .finding import find, open_file

NOT_FOUND = "Stageout failed due to no such file or directory"
NOT_STORED = "Unable to stageout output to object storage"
NOT_PACKED = "Stageout failed due to tarball creation failed"

#: How often one file is sent before it is given up.
TRIES = 5
#: How long an API that does not answer is asked for where to send a file, in seconds: a server that is being mended.
PATIENCE_S = 3600.0
#: What a new URL will not change.
_FINAL = (409, 413)


class StageOutFailed(Exception):
    """The output can't be stored: the contract's reason, and a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Destination:
    """Where outputs go: `folder` in the object store, by URLs that the API at `url` gives to whoever has `token`."""

    folder: str
    url: str = field(repr=False)
    token: str = field(repr=False)
    ca_file: str | None


@dataclass(frozen=True)
class Source:
    """Where outputs are: the container's paths and the node's, a folder for archives, an archive's limit in bytes."""

    roots: Mapping[str, str]
    scratch: str
    user: User
    limit: int


class Uploads:
    """Stores open files, each with as many tries as it needs, always by a fresh URL: none is ever too old."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        certificates = web.certificates(destination.ca_file)
        self._reach = web.Reach(EVERYWHERE, certificates)

    def store(self, file: str, source: int) -> tuple[int, str, int]:
        """Size in bytes, SHA-256 and tries. Raises StageOutFailed."""
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


class StageOut:
    """The way of one output, which may be several files; `run` is called in a process of its own."""

    def __init__(self, output: Output, source: Source, destination: Destination, taken: Mapping[str, str]) -> None:
        self._output = output
        self._source = source
        self._destination = destination
        self._taken = dict(taken)  # name in the store -> path, of what was stored before
        self._stored: list[dict[str, Any]] = []
        self._lines: list[str] = []

    def run(self) -> dict[str, Any]:
        """`stored` and `lines` of what was; with `reason` and `failed` if something of it was not."""
        with tempfile.TemporaryFile(dir=self._source.scratch) as packed:
            keep = [packed.fileno()]
            try:
                return as_user(self._source.user, lambda: self._as_user(packed), keep)
            except ChildDied as error:
                return {"reason": NOT_STORED, "failed": f"Output {self._output.name}: storing it broke off, {error}"}

    def _as_user(self, packed: IO[bytes]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        name = self._output.name
        try:
            uploads = Uploads(self._destination)
            for path in find(self._source.roots, name, self._output.is_folder):
                name = path
                self._store(path, uploads, packed)
        except NotThere as error:
            answer = {"reason": NOT_FOUND, "failed": f"Output {error}"}
        except StageOutFailed as error:
            answer = {"reason": error.reason, "failed": f"Output {name}: {error}"}
        except Refused as error:
            answer = {"reason": NOT_STORED, "failed": f"Output {name}: {error.sentence}"}
        return dict(answer, stored=self._stored, lines=self._lines)

    def _store(self, path: str, uploads: Uploads, packed: IO[bytes]) -> None:
        file = self._file(path)
        if self._taken.get(file) == path:
            return  # an output before this one meant it, too
        told = f"Output {path}: "
        if self._output.is_folder:
            told += self._packed(path, packed)
            size, sha256, tries, seconds = self._timed(uploads, file, packed.fileno())
        else:
            source = open_file(self._source.roots, path)
            try:
                size, sha256, tries, seconds = self._timed(uploads, file, source)
            finally:
                os.close(source)
        again = f" in {tries} tries" if tries > 1 else ""
        rate = shown_size(size / max(seconds, 1e-3))
        self._lines.append(f"{told}{shown_size(size)} stored as {file}{again} in {seconds:.1f} s ({rate}/s)")
        self._taken[file] = path
        kind = self._output.kind
        self._stored.append(
            {"name": path, "asked": self._output.name, "kind": kind, "file": file, "size": size, "sha256": sha256}
        )

    @staticmethod
    def _timed(uploads: Uploads, file: str, source: int) -> tuple[int, str, int, float]:
        began = time.monotonic()
        size, sha256, tries = uploads.store(file, source)
        return size, sha256, tries, time.monotonic() - began

    def _packed(self, path: str, packed: IO[bytes]) -> str:
        packed.seek(0)
        packed.truncate()
        began = time.monotonic()
        try:
            files = pack(
                self._source.roots, posixpath.join(HOME, path), posixpath.basename(path), packed, self._source.limit
            )
            packed.flush()
        except NotThere as error:
            raise StageOutFailed(NOT_PACKED, str(error)) from error
        except TooLarge as error:
            raise StageOutFailed(
                NOT_PACKED, f"its archive {error}, which is all the disk that the job has asked for"
            ) from error
        except OSError as error:
            raise StageOutFailed(NOT_PACKED, f"the node can't hold its archive, {error.strerror}") from error
        seconds = time.monotonic() - began
        return f"{files} file{'' if files == 1 else 's'} packed in {seconds:.1f} s, "

    def _file(self, path: str) -> str:
        """Its name in the store: the last of its path, or all of it where that is another's."""
        suffix = ".tgz" if self._output.is_folder else ""
        short = posixpath.basename(path) + suffix
        return short if self._taken.get(short, path) == path else path.replace("/", "_") + suffix


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
