"""What the agent asks of Linux beyond the standard library: prctl, process identity, process trees."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from typing import Iterable

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
# the same numbers on all processors
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 1, 6

_libc = ctypes.CDLL(None, use_errno=True)
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Orphans below this process become its children instead of init's, so a double fork does not escape."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signum: int, parent: int) -> bool:
    """Ask for `signum` when the parent dies. False if `parent` had died already: the signal will then never come."""
    _prctl(PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent


def detach_mount(path: str) -> None:
    """Unmount lazily; a mount that is already gone is no error."""
    _libc.umount2(os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW)


def unmounted(kind: str) -> int | None:
    """A descriptor of the root of a file system without a device, whether or not it is mounted anywhere."""
    context = int(_libc.syscall(_FSOPEN, ctypes.c_char_p(kind.encode()), _FSOPEN_CLOEXEC))
    if context < 0:
        return None
    try:
        if _libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0) != 0:
            return None
        root = int(_libc.syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0))
        return root if root >= 0 else None
    finally:
        os.close(context)


def set_title(title: str) -> None:
    """Show `title` in ps: a forked runner must not look like the service that it outlives."""
    _libc.prctl(PR_SET_NAME, ctypes.c_char_p(title.encode()[:15]), 0, 0, 0)
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return
    start, end = int(fields[45]), int(fields[46])
    room = end - start
    if room > 1:
        # the kernel shows this memory, our own argv, as the command line
        ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as handle:
        return handle.read().strip()


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/<pid>/stat that are used here."""

    pid: int
    state: str
    ppid: int
    cpu_ticks: int
    start: int
    rss_kb: int


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            fields = handle.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Stat(
        pid=pid,
        state=fields[0].decode(),
        ppid=int(fields[1]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        start=int(fields[19]),
        rss_kb=int(fields[21]) * PAGE_KB,
    )


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root: int) -> list[Stat]:
    """All processes below `root`, zombies too, by one pass over /proc: `children` files need a kernel option."""
    below: dict[int, list[Stat]] = {}
    for pid in pids():
        found = stat(pid)
        if found is not None:
            below.setdefault(found.ppid, []).append(found)
    tree: list[Stat] = []
    level = [root]
    while level:
        children = [child for pid in level for child in below.get(pid, [])]
        tree.extend(children)
        level = [child.pid for child in children]
    return tree


def _marked(pid: int, marker: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as handle:
            return marker in handle.read().split(b"\0")
    except OSError:
        return False  # gone meanwhile, or another user's


def owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None


def mounts(pid: int) -> dict[bytes, tuple[str | None, str]]:
    """What a process sees mounted: id → device (`major:minor`) and kind of file system."""
    found: dict[bytes, tuple[str | None, str]] = {}
    with open(f"/proc/{pid}/mountinfo", "rb") as handle:
        for line in handle:
            left, _, right = line.partition(b" - ")
            number, _, device = left.split()[:3]
            found[number] = (device.decode(), right.split()[0].decode())
    return found


def mount_of(pid: int, fd: str) -> bytes:
    """The id of the mount that a descriptor of a process was opened on."""
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as handle:
        for line in handle:
            if line.startswith(b"mnt_id:"):
                return line.split()[1]
    return b""


@dataclass(frozen=True)
class Brand:
    """How the processes of one lease are told from all others when their parents are dead."""

    marker: str  # an entry of their environment
    uid: int | None = None  # a user that belongs to this lease alone

    def find(self) -> list[int]:
        """Living processes of the lease, never the caller itself."""
        me = os.getpid()
        marker = self.marker.encode()
        found: list[int] = []
        for pid in pids():
            if pid == me:
                continue
            status = stat(pid)
            if status is None or status.state in "ZX":
                continue
            if (self.uid is not None and owner(pid) == self.uid) or _marked(pid, marker):
                found.append(pid)
        return found


def send(targets: Iterable[int], signum: int) -> None:
    for pid in targets:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue  # gone, or a setuid program that only its own end can stop


def become(uid: int, gid: int) -> None:
    """Be this user from now on, in no other group and without a way back; for root."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def kill_user(uid: int) -> None:
    """SIGKILL everything of `uid` in one system call, which even a fork bomb cannot outrun."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def kill_branded(brand: Brand, patience_s: float = 10.0) -> list[int]:
    """SIGKILL all processes of a lease until none is found; returns those that would not die in time."""
    end = time.monotonic() + patience_s
    while True:
        if brand.uid is not None:
            kill_user(brand.uid)
        left = brand.find()
        if not left or time.monotonic() > end:
            return left
        send(left, signal.SIGKILL)
        time.sleep(0.02)


def exit_code(status: int) -> int:
    """A wait status as a shell would show it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
