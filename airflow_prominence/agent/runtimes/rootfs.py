"""What a container will find at a path, known beforehand: the same answers whatever command runs it."""

import os
import stat
from typing import List, Optional, Tuple

from ..images.tree import resolve_in_root
from .base import HOME, TMP, ContainerError, ContainerSpec

# What is there comes from the kernel or the host while the container runs, so nothing is said of it beforehand.
_LIVE = ("/proc", "/sys", "/dev")
_MAX_LINKS = 40


def mounts(spec: ContainerSpec) -> List[Tuple[str, str]]:
    """(host, container) of all folders of the job, parents first."""
    pairs = [(spec.home, HOME), (spec.tmp, TMP)] + [(host, os.path.normpath(path)) for host, path in spec.binds]
    for host, path in pairs:
        if not path.startswith("/") or path == "/":
            raise ContainerError(f"mount point {path!r} is not an absolute path below /")
        if not os.path.exists(host):
            raise ContainerError(f"{path}: its folder is missing on the node")
    return sorted(pairs, key=lambda pair: pair[1].count("/"))


class View:
    """The container's file system as host paths: its root (topmost layer first) and the job's folders in it."""

    def __init__(self, spec: ContainerSpec, roots: List[str]) -> None:
        self._mounts = sorted(mounts(spec), key=lambda pair: -len(pair[1]))
        self._roots = roots
        self._uid = spec.uid
        self._gid = spec.gid

    def find(self, path: str) -> Optional[str]:
        """The host path of what the container sees at `path`, symbolic links followed; None if nothing is there."""
        pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: List[str] = []
        host: Optional[str] = self._at("/")
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/" + "/".join([*done, part])
            host = self._at(here)
            if host is None:
                return None
            if os.path.islink(host) and not self._is_mount(here):
                links += 1
                if links > _MAX_LINKS:
                    return None
                target = os.readlink(host)
                if target.startswith("/"):
                    done = []
                pending.extend(step for step in reversed(target.split("/")) if step not in ("", "."))
                continue
            done.append(part)
        return self._at("/" + "/".join(done))

    def is_live(self, path: str) -> bool:
        return any(path == live or path.startswith(live + "/") for live in _LIVE)

    def executable(self, host: str) -> bool:
        found = os.stat(host)
        if not stat.S_ISREG(found.st_mode):
            return False
        if found.st_uid == self._uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self._gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)

    def _is_mount(self, path: str) -> bool:
        return any(path == mount for _, mount in self._mounts)

    def _at(self, path: str) -> Optional[str]:
        for host, mount in self._mounts:
            if path == mount:
                return host
            if path.startswith(mount + "/"):
                inside = host + path[len(mount) :]
                return inside if os.path.lexists(inside) else None
        for root in self._roots:
            inside = os.path.join(root, path.lstrip("/"))
            if os.path.lexists(inside):
                # In an overlay's upper folder a 0/0 device stands for something removed.
                mode = os.lstat(inside)
                return None if stat.S_ISCHR(mode.st_mode) and mode.st_rdev == 0 else inside
        return None


def refusal(spec: ContainerSpec, roots: List[str], creates_workdir: bool = False) -> Optional[Tuple[int, str]]:
    """Why the container's command cannot start, as (126 or 127, sentence); None if as far as can be told it can.

    Runtimes disagree about these exit codes (1, 255, 127); the job's author shall see the same ones everywhere.
    """
    view = View(spec, roots)
    workdir = spec.workdir
    if not view.is_live(workdir) and not creates_workdir:
        folder = view.find(workdir)
        if folder is None or not os.path.isdir(folder):
            return 127, f"{workdir}: no such working directory in the container"
    script = spec.script
    if script is not None and view.find(script) is None:
        what = "runscript" if spec.app is None else f"app {spec.app!r}"
        return 127, f"the task needs the image's {what}, which it does not have"
    argv = spec.command()
    if not argv or not argv[0]:
        return 127, "the task has no cmd and the image neither ENTRYPOINT nor CMD"
    name = argv[0]
    if "/" in name:
        tries = [os.path.join(workdir, name)]
    else:
        tries = [os.path.join(workdir, part, name) for part in spec.environment().get("PATH", "").split(":")]
    seen = False
    for path in tries:
        if view.is_live(os.path.normpath(path)):
            return None
        host = view.find(path)
        if host is None:
            continue
        seen = True
        if view.executable(host):
            return _interpreter(view, host, name)
    return (126, f"{name}: not executable") if seen else (127, f"{name}: command not found")


def _interpreter(view: View, host: str, name: str) -> Optional[Tuple[int, str]]:
    try:
        with open(host, "rb") as file:
            line = file.readline(256)
    except OSError:
        return None
    if not line.startswith(b"#!"):
        return None
    words = line[2:].split()
    if not words:
        return None
    path = os.fsdecode(words[0])
    if path.startswith("/") and not view.is_live(path) and view.find(path) is None:
        return 127, f"{name}: its interpreter {path} is not in the container"
    return None


def make_workdir(spec: ContainerSpec, root: Optional[str]) -> None:
    """Make the working directory where the job may have one of its own: in its folders, or in its writable root.

    In its folders it may have mount points too, which runtimes would make each in its own way.
    """
    for _, path in mounts(spec):
        for host, mount in ((spec.home, HOME), (spec.tmp, TMP)):
            if path.startswith(mount + "/"):
                _make_owned(host, path[len(mount) :], "mount point " + path, spec)
    what = "working directory " + spec.workdir
    for host, mount in sorted(mounts(spec), key=lambda pair: -len(pair[1])):
        if spec.workdir == mount or spec.workdir.startswith(mount + "/"):
            _make_owned(host, spec.workdir[len(mount) :], what, spec)
            return
    if root is not None:
        _make_owned(root, spec.workdir, what, spec)


def _make_owned(base: str, path: str, what: str, spec: ContainerSpec) -> None:
    """Make folders step by step from open ones: the job may be running and could put a link in the way of a path."""
    steps = os.path.relpath(resolve_in_root(base, path), base).split(os.sep)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(base, flags)
    try:
        for step in steps:
            made = False
            if step == ".":
                return
            try:
                os.mkdir(step, dir_fd=here)
                made = True
            except FileExistsError:
                pass
            below = os.open(step, flags, dir_fd=here)
            os.close(here)
            here = below
            if made and os.geteuid() == 0:
                os.fchown(here, spec.uid, spec.gid)
    except OSError as error:
        raise ContainerError(f"{what} cannot be made ({error.strerror})") from error
    finally:
        os.close(here)


def identity(spec: ContainerSpec, root: str) -> Tuple[bytes, bytes]:
    """The image's passwd and group with an entry for the job's user, so that `id` and `whoami` have names."""
    files = []
    user = spec.env.get("USER", "user")
    if not user or ":" in user or "\n" in user:
        user = "user"
    lines = (f"{user}:x:{spec.uid}:{spec.gid}:{user}:{HOME}:/bin/sh", f"{user}:x:{spec.gid}:")
    for path, number, line in (("/etc/passwd", spec.uid, lines[0]), ("/etc/group", spec.gid, lines[1])):
        data = _read(resolve_in_root(root, path))
        known = [entry.split(b":") for entry in data.splitlines()]
        # An entry of the image with this name but another number would win for those who look up by name.
        kept = [entry for entry in known if len(entry) > 2 and entry[0] != os.fsencode(user)]
        if not any(entry[2] == str(number).encode() for entry in kept):
            data = b"".join(b":".join(entry) + b"\n" for entry in kept) + os.fsencode(line) + b"\n"
        files.append(data)
    return files[0], files[1]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4 << 20)
    except OSError:
        return b""
