"""Control groups, version 1 or 2, wherever this process may make one; where it may not, everything here does nothing.

The group keeps a job's processes together whatever they do (membership), counts and limits their memory, and lets
them be killed at once. Callers never depend on it: each has another, weaker way.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from . import linux

#: Threads a job may have: MPI and OpenMP start some for each core, a fork bomb any number.
_PIDS_MAX = 2048
_PIDS_MAX_PER_CPU = 256

#: Hierarchies in which a container has a part of its own. Not memory's: version 1 counts a kill in the part alone.
_PARTED = ("freezer", "")


def _own_groups() -> dict[str, str]:
    """Controller → this process's path in that hierarchy; "" is the unified one."""
    found: dict[str, str] = {}
    with open("/proc/self/cgroup") as handle:
        for line in handle:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _mounts() -> dict[str, str]:
    """Controller → mount point; "" is the unified hierarchy's."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo") as handle:
        for line in handle:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split()[:3]
            point = left.split()[4]
            if kind == "cgroup2":
                found[""] = point
            elif kind == "cgroup":
                for option in options.split(","):
                    found[option] = point
    return found


def unified() -> int | None:
    """A descriptor of the root of version 2, below which is every process that is seen from here; None without one."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    root = linux.unmounted("cgroup2")
    if root is not None:
        try:
            return os.open(".", flags, dir_fd=root)
        finally:
            os.close(root)
    mounted = _mounts().get("")
    return None if mounted is None else os.open(mounted, flags)


def _read(path: str) -> str | None:
    try:
        with open(path) as handle:
            return handle.read()
    except OSError:
        return None


def _write(path: str, text: str) -> bool:
    try:
        with open(path, "w") as handle:
            handle.write(text)
    except OSError:
        return False
    return True


def _candidates(name: str) -> list[tuple[str, str]]:
    mounts = _mounts()
    own = _own_groups()
    found: list[tuple[str, str]] = []
    # in a group "cpu" all of a job weighs as much as one process of ours, however many it forks
    for controller in ("memory", "freezer", "pids", "cpu", ""):
        if controller in mounts and controller in own:
            inside = os.path.normpath(mounts[controller] + "/" + own[controller])
            # a folder that is not there means that the path is another namespace's
            base = inside if os.path.isdir(inside) else mounts[controller]
            found.append((controller, os.path.join(base, name)))
    return found


@dataclass(frozen=True)
class Cgroup:
    """The groups of one lease, or of one of its containers.

    `folders` maps a controller to its folder and is empty where none could be made. `above` are the lease's groups that
    a container's processes are in directly: those limit and count, which is the whole job's matter.
    """

    folders: dict[str, str]
    above: tuple[str, ...] = ()

    @classmethod
    def create(cls, name: str, memory_mb: int, cpus: int) -> Cgroup:
        folders: dict[str, str] = {}
        for controller, folder in _candidates(name):
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError:
                continue
            folders[controller] = folder
        group = cls(folders)
        group._limit(memory_mb, cpus)
        return group

    @classmethod
    def find(cls, name: str) -> Cgroup:
        """The groups of that name that are left from a dead runner."""
        return cls({controller: folder for controller, folder in _candidates(name) if os.path.isdir(folder)})

    def part(self, name: str) -> Cgroup:
        """A group inside of this one, to tell the processes of one container from those of the others."""
        folders: dict[str, str] = {}
        for controller in _PARTED:
            if controller in self.folders:
                folder = os.path.join(self.folders[controller], name)
                try:
                    os.makedirs(folder, exist_ok=True)
                except OSError:
                    continue
                folders[controller] = folder
        return Cgroup(folders, tuple(folder for key, folder in self.folders.items() if key not in folders))

    def below(self, name: str) -> Cgroup:
        """A group inside of this one, for a command's processes; `make` makes it."""
        folders = {key: os.path.join(folder, name) for key, folder in self.folders.items() if key in _PARTED}
        return Cgroup(folders, tuple(folder for key, folder in self.folders.items() if key not in folders))

    def make(self) -> None:
        """Make a group that is inside of another, if that one is still there."""
        for folder in self.folders.values():
            try:
                os.mkdir(folder)
            except OSError:
                continue

    def _limit(self, memory_mb: int, cpus: int) -> None:
        limit = str(memory_mb * 1024 * 1024)
        if "memory" in self.folders:
            _write(os.path.join(self.folders["memory"], "memory.limit_in_bytes"), limit)
            _write(os.path.join(self.folders["memory"], "memory.memsw.limit_in_bytes"), limit)
        elif "" in self.folders and _write(os.path.join(self.folders[""], "memory.max"), limit):
            _write(os.path.join(self.folders[""], "memory.swap.max"), "0")
        for controller in ("pids", ""):
            if controller in self.folders:
                _write(os.path.join(self.folders[controller], "pids.max"), str(_PIDS_MAX + _PIDS_MAX_PER_CPU * cpus))

    def join(self) -> None:
        """Move the calling process, and all that it will fork, into the groups."""
        for folder in (*self.above, *self.folders.values()):
            _write(os.path.join(folder, "cgroup.procs"), str(os.getpid()))

    @property
    def limits_memory(self) -> bool:
        folder = self.folders.get("memory")
        if folder is not None:
            text = _read(os.path.join(folder, "memory.limit_in_bytes"))
            return text is not None and int(text) < 1 << 60
        text = _read(os.path.join(self.folders[""], "memory.max")) if "" in self.folders else None
        return text is not None and text.strip() != "max"

    def oom_kills(self) -> int:
        """How often the kernel killed a process of the job for want of memory."""
        name = "memory.oom_control" if "memory" in self.folders else "memory.events"
        text = _read(os.path.join(self.folders.get("memory", self.folders.get("", "/nonexistent")), name))
        for line in (text or "").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def peak_kb(self) -> int | None:
        """The most memory that all in it have had at once, or in what it is a part of where only that is counted."""
        names = ("memory.max_usage_in_bytes", "memory.peak")
        folders = (*self.folders.values(), *self.above)
        found = [_read(os.path.join(folder, name)) for folder in folders for name in names]
        return next((int(text) // 1024 for text in found if text is not None), None)

    def members(self) -> list[int]:
        found: list[int] = []
        for folder in self.folders.values():
            for root, _, _ in os.walk(folder):
                text = _read(os.path.join(root, "cgroup.procs"))
                found.extend(int(pid) for pid in (text or "").split())
        return sorted(set(found) - {os.getpid(), 0})

    def kill(self, patience_s: float = 10.0) -> None:
        """SIGKILL all members until none is left. They are frozen meanwhile, so that they can't fork away."""
        end = time.monotonic() + patience_s
        freezer = self.folders.get("freezer")
        while True:
            if "" in self.folders:
                _write(os.path.join(self.folders[""], "cgroup.kill"), "1")
            if freezer is not None:
                _write(os.path.join(freezer, "freezer.state"), "FROZEN")
            left = [pid for pid in self.members() if not _dead(pid)]
            linux.send(left, signal.SIGKILL)
            if freezer is not None:
                for folder, _, _ in os.walk(freezer):
                    # a part that was being killed when its guard died is frozen by itself
                    _write(os.path.join(folder, "freezer.state"), "THAWED")
            if not left or time.monotonic() > end:
                return
            time.sleep(0.01)

    def remove(self) -> None:
        for folder in self.folders.values():
            for root, _, _ in os.walk(folder, topdown=False):
                try:
                    os.rmdir(root)
                except OSError:
                    continue  # a zombie's last moments; whoever sweeps next finds the group by its name


#: For work whose processes are known by their parents alone.
NO_GROUP = Cgroup({})


def _dead(pid: int) -> bool:
    found = linux.stat(pid)
    return found is None or found.state in "ZX"
