"""The way of a job's output from a pipe to the file that keeps it."""

from __future__ import annotations

import errno
import os
import time

READ = 64 * 1024

#: An unfinished line of a work that shares its file waits so long for its rest (s), if it is not longer than this.
_WAIT_S = 0.1
_LONGEST = 1 << 20


class Copy:
    """One pipe's reading end, the file it goes to, and one that gets all of it beside that.

    Where other work writes to the same file, whole lines are appended at once, as if all of it had the file open
    itself: a pipe's reader sees pieces that its writer never made.
    """

    def __init__(self, source: int, target: int, shared: bool, beside: int | None = None) -> None:
        self.source = source
        self.target = target
        self.beside = beside
        self.discarded = False
        self._shared = shared
        self._held = b""
        self._since = 0.0

    def pump(self, most: int) -> bool:
        """Copy what is there, `most` pieces of it; False when there will be no more."""
        for _ in range(most):
            try:
                data = os.read(self.source, READ)
            except BlockingIOError:
                return True
            if not data:
                self._write(self._held)
                self._held = b""
                return False
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        if self.beside is not None:
            _write_all(self.beside, data)
        whole = self._held + data
        cut = whole.rfind(b"\n") + 1 if self._shared and len(whole) < _LONGEST else len(whole)
        self._write(whole[:cut])
        self._held = whole[cut:]
        self._since = time.monotonic()

    def due_s(self) -> float | None:
        """In how many seconds an unfinished line has waited long enough; None when nothing waits."""
        return max(0.0, self._since + _WAIT_S - time.monotonic()) if self._held else None

    def settle(self) -> None:
        """Write what has waited long enough."""
        if self.due_s() == 0.0:
            self._write(self._held)
            self._held = b""

    def finish(self) -> None:
        """Copy all that is left; its writers are dead."""
        self.pump(1 << 40)
        self._write(self._held)
        self._held = b""

    def _write(self, data: bytes) -> None:
        if not self.discarded:
            _write_all(self.target, data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return  # the node's disk is full: the job goes on, its output has a gap
