"""Where a path of the container leads on the node: taken step by step, and never beyond the job's own folders.

Every step is taken from an open folder and follows no link by itself: the job may be moving its files and planting
links at that very moment. A link on the way leads where it would in the container, or is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Mapping

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without O_NONBLOCK a named pipe would hold its reader for ever.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
DEEPEST = 300

_MOST_LINKS = 40


class NotThere(Exception):
    """Why a path can't be read; one sentence that begins with it."""


class Walk:
    """The way from / to what a path means: the steps done, with an open folder for each that is below a root.

    `roots` maps the container's paths that may be read to the host's; `shown` is the path as its user wrote it.
    `close` it, or what `go` has found is left open.
    """

    def __init__(self, roots: Mapping[str, str], path: str, shown: str | None = None) -> None:
        self._roots = roots
        self._shown = shown or path
        self._pending = _steps(path)
        self._done: list[str] = []
        self._fds: list[int | None] = []
        self._links = 0

    def go(self) -> tuple[int, str]:
        """An open folder, and what of it is meant: a name, or "." for itself. Raises NotThere."""
        try:
            while self._pending:
                part = self._pending.pop()
                if part == "..":
                    self._back()
                elif not self._follow(part):
                    self._step(part)
        except OSError as error:
            raise NotThere(f"{self._shown}: {why(error)}") from error
        here = self._fds[-1] if self._fds else None
        if here is not None and here >= 0:
            return here, "."
        above = self._fds[-2] if len(self._fds) > 1 else None
        if here is None or above is None:
            raise self._outside()
        return above, self._done[-1]

    def _follow(self, part: str) -> bool:
        """Whether the step was a link: where it leads is then what comes next."""
        folder = self._fds[-1] if self._fds else None
        if folder is None or self._here(part) in self._roots:
            return False
        if folder < 0:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        if not stat.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode):
            return False
        self._links += 1
        if self._links > _MOST_LINKS:
            raise NotThere(f"{self._shown}: too many symbolic links")
        target = os.readlink(part, dir_fd=folder)
        if target.startswith("/"):
            self.close()
        self._pending.extend(_steps(target))
        return True

    def _step(self, part: str) -> None:
        """One name further down; -1 stands for what is no folder."""
        here = self._here(part)
        folder = self._fds[-1] if self._fds else None
        fd: int | None = None
        if here in self._roots:
            fd = os.open(self._roots[here], FOLDER)
        elif folder is not None:
            found = os.lstat(part, dir_fd=folder)
            fd = os.open(part, FOLDER, dir_fd=folder) if stat.S_ISDIR(found.st_mode) else -1
        elif not any(root.startswith(here + "/") for root in self._roots):
            raise self._outside()
        self._done.append(part)
        self._fds.append(fd)
        if len(self._done) > DEEPEST:
            raise NotThere(f"{self._shown}: is nested too deeply")

    def _back(self) -> None:
        if self._done:
            self._done.pop()
            fd = self._fds.pop()
            if fd is not None and fd >= 0:
                os.close(fd)

    def _here(self, part: str) -> str:
        return "/" + "/".join([*self._done, part])

    def _outside(self) -> NotThere:
        return NotThere(f"{self._shown}: leads out of the job's folders")

    def close(self) -> None:
        """Back to /."""
        while self._done:
            self._back()


def why(error: OSError) -> str:
    """What is wrong with a path, in the words that everybody knows."""
    return "no such file or directory" if error.errno in ABSENT else (error.strerror or str(error)).lower()


def _steps(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
