"""The most memory that a process of a container had resident, where the kernel's own account would tell another's.

What wait4 says of a child counts what it was before it became another program, here a copy of the agent, and so do the
programs that start a container. Below that floor the kernel's number says nothing of the job, so its processes are
looked at while they run: soon and often at first, since most small work is short.
"""

from __future__ import annotations

import mmap
import os
import resource
import struct
import time
from typing import Iterable

from . import linux
from .cgroup import Cgroup

#: What a copy of the agent grows by between being measured and being replaced, and how exactly Linux counts.
_SLACK_KB = 1024
_FIRST_S = 0.01
_LONGEST_S = 5.0
_NUMBER = struct.Struct("q")


class Resident:
    """Made in the guard before it forks.

    `programs` are files of the runtime's own, `walls` says whether a container's root is another than ours, `group` is
    the container's, None where its processes don't stay in it.
    """

    def __init__(self, programs: Iterable[str], walls: bool, group: Cgroup | None) -> None:
        self._walls = walls
        self._group = group
        self._copy = mmap.mmap(-1, _NUMBER.size)  # shared with the child
        self._starters = {found for found in map(_file, ["/proc/self/exe", *programs]) if found is not None}
        self._root = _file("/proc/self/root/")
        self._starters_kb = 0
        self._seen_kb = 0
        self._wait_s = _FIRST_S
        self._next = time.monotonic() + _FIRST_S

    def mark(self) -> None:
        """In the child, about to become another program: remember how much it was as a copy of the agent."""
        _NUMBER.pack_into(self._copy, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def due_s(self) -> float | None:
        """When to look next; None once the kernel's number will do."""
        return None if self._seen_kb > self._floor_kb() else max(0.0, self._next - time.monotonic())

    def look(self, child: int) -> None:
        """See what processes the container has now. `child` is the one that was forked."""
        if self.due_s() != 0.0:
            return
        self._wait_s = min(2 * self._wait_s, _LONGEST_S)
        self._next = time.monotonic() + self._wait_s
        first = _file(f"/proc/{child}/exe")
        for pid in self._processes():
            program = _file(f"/proc/{pid}/exe")
            if program is None:
                continue  # it has ended, or is runc, which starts containers from a copy of itself without a name
            most = _peak_kb(pid)
            if pid == child or program == first or program in self._starters or not self._inside(pid):
                self._starters_kb = max(self._starters_kb, most)
            else:
                self._seen_kb = max(self._seen_kb, most)

    def most_kb(self, counted_kb: int) -> int:
        """The job's part of what the kernel counted for the whole tree."""
        if counted_kb > self._floor_kb():
            return counted_kb
        if self._seen_kb:
            return self._seen_kb
        peak = None if self._group is None else self._group.peak_kb()
        return counted_kb if peak is None else min(counted_kb, peak)

    def _floor_kb(self) -> int:
        (copy,) = _NUMBER.unpack_from(self._copy, 0)
        return max(int(copy), self._starters_kb) + _SLACK_KB

    def _processes(self) -> list[int]:
        members = [] if self._group is None else self._group.members()
        return members or [found.pid for found in linux.descendants(os.getpid()) if found.state not in "ZX"]

    def _inside(self, pid: int) -> bool:
        return not self._walls or _file(f"/proc/{pid}/root/") not in (None, self._root)


def _file(path: str) -> tuple[int, int] | None:
    """What tells a file from all others; None if it can't be seen or has no name any more."""
    try:
        found = os.stat(path)
    except OSError:
        return None  # it has ended, or lets nobody look
    return (found.st_dev, found.st_ino) if found.st_nlink else None


def _peak_kb(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as handle:
            for line in handle:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
