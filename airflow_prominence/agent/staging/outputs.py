"""One output of a job on its way to where it is kept: found in the job's folders, packed if it is a folder, stored."""

from __future__ import annotations

import os
import posixpath
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, Mapping

from ..assignment import Output
from ..pack import TooLarge, pack
from ..runtimes.base import HOME
from ..users import User
from ..wire import Refused
from ..within import NotThere
from .artifacts import shown_size
from .asuser import ChildDied, as_user
from .finding import find, open_file
from .keeping import NOT_STORED, Destination, Keeper, StageOutFailed

NOT_FOUND = "Stageout failed due to no such file or directory"
NOT_PACKED = "Stageout failed due to tarball creation failed"


@dataclass(frozen=True)
class Source:
    """Where outputs are: the container's paths and the node's, a folder for archives, an archive's limit in bytes."""

    roots: Mapping[str, str]
    scratch: str
    user: User
    limit: int


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
            keeper = self._destination.open()
            for path in find(self._source.roots, name, self._output.is_folder):
                name = path
                self._store(path, keeper, packed)
        except NotThere as error:
            answer = {"reason": NOT_FOUND, "failed": f"Output {error}"}
        except StageOutFailed as error:
            answer = {"reason": error.reason, "failed": f"Output {name}: {error}"}
        except Refused as error:
            answer = {"reason": NOT_STORED, "failed": f"Output {name}: {error.sentence}"}
        return dict(answer, stored=self._stored, lines=self._lines)

    def _store(self, path: str, keeper: Keeper, packed: IO[bytes]) -> None:
        file = self._file(path)
        if self._taken.get(file) == path:
            return  # an output before this one meant it, too
        told = f"Output {path}: "
        if self._output.is_folder:
            told += self._packed(path, packed)
            size, sha256, tries, seconds = self._timed(keeper, file, packed.fileno())
        else:
            source = open_file(self._source.roots, path)
            try:
                size, sha256, tries, seconds = self._timed(keeper, file, source)
            finally:
                os.close(source)
        again = f" in {tries} tries" if tries > 1 else ""
        rate = shown_size(size / max(seconds, 1e-3))
        where = keeper.shown(file)
        self._lines.append(f"{told}{shown_size(size)} stored as {where}{again} in {seconds:.1f} s ({rate}/s)")
        self._taken[file] = path
        kind = self._output.kind
        self._stored.append(
            {"name": path, "asked": self._output.name, "kind": kind, "file": file, "size": size, "sha256": sha256}
        )

    @staticmethod
    def _timed(keeper: Keeper, file: str, source: int) -> tuple[int, str, int, float]:
        began = time.monotonic()
        size, sha256, tries = keeper.store(file, source)
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
