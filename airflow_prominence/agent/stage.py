"""The folders of one job: made, filled with its inputs, and removed with everything that is in them."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from typing import Iterable

from . import linux
from .assignment import Input
from .images.tree import remove_tree
from .users import User

SCRATCH = "scratch"


class BadInput(ValueError):
    """One sentence naming the input."""


@dataclass(frozen=True)
class JobFolders:
    root: str
    home: str
    tmp: str
    scratch: str


def make(root: str, user: User) -> JobFolders:
    """Fresh folders that only the job's user can enter."""
    folders = JobFolders(root, *(os.path.join(root, name) for name in ("home", "tmp", SCRATCH)))
    for path in (folders.root, folders.home, folders.tmp, folders.scratch):
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
        os.chown(path, user.uid, user.gid)
    return folders


def _parts(filename: str) -> list[str]:
    parts = filename.split("/")
    if not filename or "\0" in filename or any(part in ("", ".", "..") for part in parts):
        raise BadInput(f"inputs: filename {filename!r} must be a plain relative path")
    return parts


def write_inputs(inputs: Iterable[Input], home: str, user: User) -> None:
    """Inputs go below `home` and nowhere else: no path part is ever followed through a link."""
    for item in inputs:
        parts = _parts(item.filename)
        try:
            content = base64.b64decode(item.content, validate=True)
        except binascii.Error as error:
            raise BadInput(f"inputs: content of {item.filename!r} is not base64") from error
        try:
            _write(parts, content, item.executable, home, user)
        except OSError as error:
            raise BadInput(f"inputs: {item.filename!r} can't be written: {error.strerror}") from error


def _write(parts: list[str], content: bytes, executable: bool, home: str, user: User) -> None:
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            try:
                os.mkdir(part, 0o700, dir_fd=folder)
                os.chown(part, user.uid, user.gid, dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                pass
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        # the same name twice: the later one wins, as it does where a document's inputs are copied in order
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, 0o600, dir_fd=folder)
        with os.fdopen(fd, "wb") as handle:
            handle.write(content)
            os.fchmod(handle.fileno(), 0o755 if executable else 0o644)
            os.fchown(handle.fileno(), user.uid, user.gid)
    finally:
        os.close(folder)


def _mounts_below(root: str) -> list[str]:
    found: list[str] = []
    with open("/proc/self/mountinfo") as handle:
        for line in handle:
            point = line.split()[4].encode().decode("unicode_escape")
            if point.startswith(root + "/"):
                found.append(point)
    return sorted(found, reverse=True)


def remove_scratch(root: str) -> bool:
    """Remove what containers have made of their images; False when something of it stays."""
    return remove(os.path.join(root, SCRATCH))


def remove(root: str) -> bool:
    """Remove a job's folder whatever the job has made of it; False when something of it stays."""
    root = os.path.abspath(root)
    if os.geteuid() == 0:
        for point in _mounts_below(root):
            linux.detach_mount(point)
    try:
        remove_tree(root)
    except OSError as error:
        print(f"{root}: {error}")
    return not os.path.lexists(root)
