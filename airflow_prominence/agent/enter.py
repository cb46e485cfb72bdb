"""Entering a running container: its namespaces and its root, with no more rights than the job's own user has.

The way in is taken as that user, so that whatever the job has made of its namespaces leads to nothing that it could
not do itself; and the processes on the way can't be looked into, since they are copies of the agent.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import time
from typing import Callable, NoReturn, Sequence

from . import linux

_CLONE_NEWUSER = 0x10000000
#: In the order of entering; the user's comes before (the one that owns these) and after (the process's own).
_KINDS = (
    ("mnt", 0x00020000),
    ("pid", 0x20000000),
    ("ipc", 0x08000000),
    ("uts", 0x04000000),
    ("net", 0x40000000),
    ("cgroup", 0x02000000),
)
_NS_GET_USERNS = 0xB701

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522

LEFTOVERS_GRACE_S = 0.5
_LEFTOVERS_PATIENCE_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


class NotEntered(Exception):
    """The container can't be entered (any more); one sentence."""


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise NotEntered(f"{what}: {os.strerror(number)}")


def _prctl(option: int, first: int, second: int = 0) -> int:
    return int(_libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0))


# -- finding it


def find(guard: int, kinds: Sequence[str] = ("mnt",)) -> int | None:
    """The first process of the container below `guard`: in other namespaces than ours, and no more its starter."""
    own = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in kinds}
    programs: dict[int, set[tuple[int, int]]] = {guard: set()}
    for found in linux.descendants(guard):
        if found.state in "ZX":
            continue
        try:
            program = os.stat(f"/proc/{found.pid}/exe")
            inside = all(os.stat(f"/proc/{found.pid}/ns/{kind}").st_ino != ours for kind, ours in own.items())
        except OSError:
            continue  # it has ended, or it lets nobody look
        starters = programs.get(found.ppid, set())
        if inside and (program.st_dev, program.st_ino) not in starters:
            return found.pid
        programs[found.pid] = starters | {(program.st_dev, program.st_ino)}
    return None


# -- the way in


class _Doors:
    """The open namespaces and root of one process, as far as they are other than ours."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fds: dict[str, int] = {}
        self._ours: dict[str, int] = {}

    def open(self, last: bool) -> None:
        """Open what is not open yet; what is not allowed is left for later, unless this is the `last` try."""
        for kind in ("user", *(name for name, _ in _KINDS), "root"):
            if kind in self._fds:
                continue
            path = f"/proc/{self._pid}/root" if kind == "root" else f"/proc/{self._pid}/ns/{kind}"
            flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECTORY if kind == "root" else 0)
            try:
                self._fds[kind] = os.open(path, flags)
            except PermissionError as error:
                if last:
                    raise NotEntered(f"{path}: {error.strerror}") from error
            except OSError as error:
                raise NotEntered("the container has ended") from error

    def enter(self) -> None:
        # looked at now: what is at /proc on the way is another's
        self._ours = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in self._fds if kind != "root"}
        self._join("user", self._owner(), _CLONE_NEWUSER)
        for kind, flag in _KINDS:
            self._join(kind, self._fds[kind], flag)
        self._join("user", self._fds["user"], _CLONE_NEWUSER)
        os.fchdir(self._fds["root"])
        os.chroot(".")
        os.chdir("/")

    def _owner(self) -> int:
        """The user namespace that the file systems belong to: bubblewrap's own, of which the job's is a part."""
        return fcntl.ioctl(self._fds["mnt"], _NS_GET_USERNS)

    def _join(self, kind: str, fd: int, flag: int) -> None:
        wanted = os.fstat(fd).st_ino
        if wanted != self._ours[kind]:
            _check(_libc.setns(fd, flag), f"the container's {kind} namespace")
            self._ours[kind] = wanted

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_everything() -> None:
    """Leave no capability, in no set, and no way to get one."""
    capability = 0
    while _prctl(_PR_CAPBSET_DROP, capability) == 0:
        capability += 1
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapHeader(_CAP_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(nothing)), "capabilities")
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")


def _become(user: tuple[int, int] | None) -> None:
    if user is not None:
        linux.become(*user)
    # a change of user has done this already, for the agent that is no root it is yet to be done
    _check(_prctl(_PR_SET_DUMPABLE, 0), "dumpable")


def run(pid: int, user: tuple[int, int] | None, argv: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Run `argv` beside the process `pid` and end as it ends, when nothing of it lives any more.

    The caller is a forked child that nobody else needs: single-threaded, its output in place. `user` is whom to become,
    None where we are the job's user already. Raises NotEntered before anything has run.
    """
    inherited = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    doors = _Doors(pid)
    doors.open(last=False)
    parent = os.getppid()
    _become(user)
    if not linux.die_with_parent(signal.SIGKILL, parent):
        os._exit(137)
    doors.open(last=True)
    try:
        doors.enter()
    except OSError as error:
        raise NotEntered(f"the container's root: {error.strerror}") from error
    _drop_everything()
    doors.close()
    me = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        raise NotEntered("the container has ended") from error  # its first process has, and took the namespace along
    if child == 0:
        _forked(lambda: _keep(argv, env, cwd, inherited), me)
    _close(inherited)
    os._exit(_await(child))


def _forked(body: Callable[[], int], parent: int) -> NoReturn:
    code = 126
    try:
        # from inside a container our parent has no number
        if linux.die_with_parent(signal.SIGKILL, parent) or os.getppid() == 0:
            code = body()
    finally:
        os._exit(code)


def _close(fds: list[int]) -> None:
    """Let go of what is its parent's, whose end would go unnoticed; a program that is started does so by itself."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue  # the one that listed them


def _await(child: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return linux.exit_code(status)


def _keep(argv: list[str], env: dict[str, str], cwd: str, inherited: list[int]) -> int:
    """The first of ours inside: all that the command leaves behind becomes its child, and ends with the command."""
    os.setsid()
    linux.become_subreaper()
    me = os.getpid()
    child = os.fork()
    if child == 0:
        _forked(lambda: _execute(argv, env, cwd), me)
    _close(inherited)
    code = _await(child)
    end = time.monotonic() + LEFTOVERS_GRACE_S
    last = end + _LEFTOVERS_PATIENCE_S
    while _left() and time.monotonic() < last:
        try:
            left = [found.pid for found in linux.descendants(me)]
        except OSError:
            break  # a container without /proc: the guard finds them from outside
        linux.send(left, signal.SIGTERM if time.monotonic() < end else signal.SIGKILL)
        time.sleep(0.02)
    return code


def _left() -> bool:
    """Whether any child is left, dead ones taken away."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return True
        except ChildProcessError:
            return False


def _execute(argv: list[str], env: dict[str, str], cwd: str) -> int:
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    try:
        os.chdir(cwd)
    except OSError as error:
        return _complain(f"{cwd}: {error.strerror}", 126)
    name, seen = argv[0], False
    folders = [""] if "/" in name else env.get("PATH", "").split(":")
    for folder in folders:
        try:
            os.execve(os.path.join(folder, name), argv, env)  # noqa: S606 - no shell is what we want
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if "/" in name or not isinstance(error, PermissionError):
                return _complain(f"{name}: {error.strerror}", 126)
            seen = True
    return _complain(f"{name}: not executable", 126) if seen else _complain(f"{name}: command not found", 127)


def _complain(sentence: str, code: int) -> int:
    os.write(2, os.fsencode(sentence) + b"\n")
    return code


def refusal(error: Exception) -> bytes:
    """The line by which a guard hears why nothing was run."""
    return json.dumps({"error": str(error)}).encode() + b"\n"
