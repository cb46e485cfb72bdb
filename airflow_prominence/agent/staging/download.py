"""One file from a URL into an open descriptor, however often the connection breaks on the way."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import Callable

from ..wire import Backoff, Unreachable
from . import web

#: So many tries in a row that bring next to nothing are the end.
TRIES = 5
#: ... and so many in all, whatever they bring.
MOST_TRIES = 200
#: ... and so long in all, in seconds: a job's token lives two hours longer.
LONGEST_S = 24 * 3600.0
_PROGRESS_BYTES = 64 * 1024
_LONGEST_PAUSE_S = 60.0
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")


class DownloadFailed(Exception):
    """One sentence says why the file can't be had."""


@dataclass(frozen=True)
class Version:
    """What the server says by which to tell a changed file from the same."""

    etag: str = ""
    modified: str = ""

    def __bool__(self) -> bool:
        return bool(self.etag or self.modified)

    @property
    def condition(self) -> dict[str, str]:
        """Headers that ask for the file only if it has changed."""
        headers = {}
        if self.etag:
            headers["If-None-Match"] = self.etag
        elif self.modified:
            headers["If-Modified-Since"] = self.modified
        return headers

    @property
    def range_condition(self) -> str:
        """What makes a server send the rest of this version or else all of another; empty if nothing would."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass(frozen=True)
class Fetched:
    size: int
    sha256: str | None
    version: Version
    tries: int


class Download:
    """`open_target` is called with the length (if known) and version once the server has begun to answer with the file.

    At most `limit` bytes are taken. Where `sha256` is known the file is checked; where `known` is a version that is
    here already, the file is fetched only if the server has another.
    """

    def __init__(
        self,
        url: str,
        reach: web.Reach,
        open_target: Callable[[int | None, Version], int],
        limit: int,
        *,
        sha256: str | None = None,
        known: Version | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._reach = reach
        self._open_target = open_target
        self._limit = limit
        self._wanted = sha256
        self._known = known or Version()
        self._sleep = sleep
        self._fd = -1
        self._have = 0
        self._total: int | None = None
        self._version = Version()
        self._digest = hashlib.sha256()
        self._mismatches = 0

    def run(self) -> Fetched | None:
        """The file, or None if the known version is still the server's.

        Raises DownloadFailed, Refused, AddressRefused, and OSError if the file can't be written.
        """
        backoff = Backoff(1.0, 30.0)
        end = time.monotonic() + LONGEST_S
        fruitless = 0
        for tries in range(1, MOST_TRIES + 1):
            before = self._have
            try:
                if not self._once():
                    return None
                return Fetched(self._have, self._wanted, self._version, tries)
            except Unreachable as error:
                fruitless = 0 if self._have - before >= _PROGRESS_BYTES else fruitless + 1
                if fruitless == 0:
                    backoff.reset()
                if fruitless >= TRIES or tries == MOST_TRIES or time.monotonic() > end:
                    raise DownloadFailed(f"{error}; given up after {tries} tries") from error
                pause = backoff.pause()
                if isinstance(error, web.Wait):
                    pause = min(max(pause, error.seconds), _LONGEST_PAUSE_S)
                self._sleep(pause)
        raise AssertionError("unreachable")

    def _once(self) -> bool:
        """Go on from what is here; False if the known version is still good."""
        headers = {}
        resumes = self._have > 0 and bool(self._version.range_condition or self._wanted)
        if resumes:
            headers["Range"] = f"bytes={self._have}-"
            if self._version.range_condition:
                headers["If-Range"] = self._version.range_condition
        elif self._fd < 0:
            headers.update(self._known.condition)
        with web.get(self._url, headers, self._reach) as answer:
            if answer.status in (206, 416) and resumes:
                if answer.status == 416 or not self._continues(answer):
                    self._restart()
                    raise Unreachable("the server can't go on where the connection broke")
            elif answer.status == 304 and self._known and self._fd < 0:
                return False
            elif answer.status != 200:
                raise Unreachable(f"the server answered {answer.status} to a plain request")
            else:
                version = Version(answer.header("ETag"), answer.header("Last-Modified"))
                # some servers pass over the condition
                if self._fd < 0 and self._known.etag and version.etag == self._known.etag:
                    return False
                self._begin(answer.length, version)
            self._copy(answer)
        return True

    def _continues(self, answer: web.Answer) -> bool:
        found = _RANGE.match(answer.header("Content-Range"))
        if found is None or int(found[1]) != self._have:
            return False
        return self._total is None or found[3] == "*" or int(found[3]) == self._total

    def _begin(self, total: int | None, version: Version) -> None:
        if total is not None and total > self._limit:
            raise DownloadFailed(self._too_large(total))
        if self._fd < 0:
            self._fd = self._open_target(total, version)
        self._restart()
        self._total, self._version = total, version

    def _restart(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.ftruncate(self._fd, 0)
        self._have, self._total = 0, None
        self._digest = hashlib.sha256()

    def _copy(self, answer: web.Answer) -> None:
        while True:
            piece = answer.read()
            if not piece:
                break
            if self._have + len(piece) > self._limit:
                raise DownloadFailed(self._too_large(None))
            view = memoryview(piece)
            while view:
                view = view[os.write(self._fd, view) :]
            if self._wanted:
                self._digest.update(piece)
            self._have += len(piece)
        if self._total is not None and self._have < self._total:
            raise Unreachable(f"the connection broke after {self._have} of {self._total} bytes")
        if self._wanted and self._digest.hexdigest() != self._wanted:
            found = self._digest.hexdigest()
            self._restart()
            self._mismatches += 1
            if self._mismatches > 1:
                raise DownloadFailed(f"its sha256 is {found}, not {self._wanted}")
            raise Unreachable(f"its sha256 is {found}, not {self._wanted}")

    def _too_large(self, total: int | None) -> str:
        size = "it is larger" if total is None else f"it has {total / 1e6:.1f} MB, more"
        return f"{size} than the {self._limit / 1e6:.1f} MB that are left of the job's disk"
