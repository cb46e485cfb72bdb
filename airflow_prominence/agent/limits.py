"""The agent's own watch over a job's memory and disk, for nodes where the kernel does not do it for us."""

from __future__ import annotations

import os
import time
from typing import Iterable, Iterator

from . import linux

#: Below PATH_MAX bytes even if each character of a name takes four (a file's name is 255 bytes at most).
_STEP = 1000


class MemoryWatch:
    """The memory of a job's process trees, in KB, and the most it has been."""

    def __init__(self, limit_mb: int) -> None:
        self._limit_kb = limit_mb * 1024
        self.peak_kb = 0

    def exceeded(self, roots: Iterable[int], apart_kb: int = 0) -> bool:
        """Look at everything below `roots`; `apart_kb` is what processes elsewhere use."""
        tree = [found for root in roots for found in linux.descendants(root) if found.state not in "ZX"]
        used = apart_kb + sum(found.rss_kb for found in tree)
        if used > self._limit_kb:
            # resident sizes count a shared page once for each process: ask for the real share before killing
            used = apart_kb + sum(_share_kb(found) for found in tree)
        self.peak_kb = max(self.peak_kb, used)
        return used > self._limit_kb


def _share_kb(found: linux.Stat) -> int:
    try:
        with open(f"/proc/{found.pid}/smaps_rollup") as handle:
            for line in handle:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return found.rss_kb


def _open_folder(path: str) -> int:
    """Open a folder whose path may be too long for the kernel, some steps at a time."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here: int | None = None
    while True:
        cut = len(path) if len(path) < _STEP else path.rindex("/", 0, _STEP)
        try:
            below = os.open(path[:cut] or "/", flags, dir_fd=here)
        finally:
            if here is not None:
                os.close(here)
        path, here = path[cut + 1 :], below
        if not path:
            return here


class DiskWatch:
    """Adds up what a job has on disk, a slice of work at a time so that no timer of its caller is late.

    That is what lies below some folders, some files, and files that have no name any more but that the job's processes
    hold open; `uid` is a user that belongs to the job alone.
    """

    def __init__(self, folders: Iterable[str], files: Iterable[str], limit_mb: int, uid: int | None = None) -> None:
        self._folders = list(folders)
        self._files = list(files)
        self._limit = limit_mb * 1024 * 1024
        self._uid = uid
        self._walk: Iterator[int] | None = None
        self._total = 0
        self._spent = 0.0
        self._next = 0.0
        self._suspected = False

    def _sizes(self, roots: list[int]) -> Iterator[int]:
        seen: set[tuple[int, int]] = set()
        # before the folders: what is removed while these are looked at must not count twice
        for found in self._removed(roots):
            if found is not None and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                yield found.st_blocks * 512
            else:
                yield 0
        for path in self._files:
            try:
                yield os.stat(path).st_blocks * 512
            except OSError:
                continue
        stack: list[str] = list(self._folders)
        while stack:
            path = stack.pop()
            try:
                folder = _open_folder(path)
            except OSError:
                continue  # removed while we looked, or closed by its owner
            try:
                # by descriptor, since a job can nest folders deeper than any path may be long
                with os.scandir(folder) as entries:
                    for entry in entries:
                        try:
                            found = entry.stat(follow_symlinks=False)
                            if entry.is_dir(follow_symlinks=False):
                                stack.append(path + "/" + entry.name)
                        except OSError:
                            continue
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                            seen.add((found.st_dev, found.st_ino))
                        yield found.st_blocks * 512
            except OSError:
                continue
            finally:
                os.close(folder)

    def _removed(self, roots: list[int]) -> Iterator[os.stat_result | None]:
        """Files without a name that the job's processes hold open on the job's disk; None for each other descriptor."""
        devices = {_device(folder) for folder in self._folders}
        for pid in self._processes(roots):
            mounts: dict[bytes, tuple[str | None, str]] | None = None
            for name in _listed(f"/proc/{pid}/fd"):
                try:
                    if os.readlink(f"/proc/{pid}/fd/{name}").endswith(" (deleted)"):
                        mounts = linux.mounts(pid) if mounts is None else mounts
                        device, kind = mounts.get(linux.mount_of(pid, name), (None, ""))
                        # nothing is asked of others: memory does not count, and a server that hangs would hold us too
                        if (device is not None and device in devices) or kind == "overlay":
                            yield os.stat(f"/proc/{pid}/fd/{name}")
                            continue
                except OSError:
                    pass  # closed meanwhile
                yield None

    def _processes(self, roots: list[int]) -> list[int]:
        if self._uid is not None:
            return [pid for pid in linux.pids() if linux.owner(pid) == self._uid]
        return [found.pid for root in roots for found in linux.descendants(root)]

    def exceeded(self, roots: Iterable[int], slice_s: float = 0.02) -> bool:
        """Go on counting for a slice of time; True once two counts, one after the other, have passed the limit.

        What the job moves during a count may count twice. `roots` are those below which the job's processes are.
        """
        now = time.monotonic()
        if self._walk is None:
            if now < self._next:
                return False
            self._walk, self._total, self._spent = self._sizes(list(roots)), 0, 0.0
        for size in self._walk:
            self._total += size
            if self._total > self._limit:
                if self._suspected:
                    return True
                self._walk, self._suspected = None, True
                return False
            if time.monotonic() - now > slice_s:
                self._spent += slice_s
                return False
        self._spent += time.monotonic() - now
        self._walk, self._suspected = None, False
        # never more than a twentieth of our time on counting
        self._next = time.monotonic() + max(1.0, 20 * self._spent)
        return False


def used_bytes(folder: str) -> int:
    """What lies below a folder that nobody writes to."""
    return sum(DiskWatch([folder], [], 0)._sizes([]))


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []  # it has ended


def _device(folder: str) -> str | None:
    """The device of a folder's file system as tables of mounts write it; stat of some file systems says another."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        me = os.getpid()
        return linux.mounts(me).get(linux.mount_of(me, str(fd)), (None, ""))[0]
    finally:
        os.close(fd)
