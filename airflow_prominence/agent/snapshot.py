"""A file or folder of a running job as a tar archive, read as the job's own user and never beyond the job's folders.

Every step of a path is taken from an open folder and follows no link by itself: the job may be moving its files and
planting links at that very moment. A link on the way leads where it would in the container, or is refused.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import tarfile
from typing import IO, Mapping

_MAX_LINKS = 40
_MAX_DEPTH = 300
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class NoSnapshot(Exception):
    """Why there is none; one sentence for the user."""


def write(roots: Mapping[str, str], path: str, name: str, target: IO[bytes], limit: int) -> None:
    """Write a compressed archive of the container path `path` to `target`, its members named from `name` on.

    `roots` maps the container's paths that may be read to the host's; `limit` is in bytes. Raises NoSnapshot.
    """
    walk = _Walk(roots, path)
    try:
        folder, last = walk.go()
        packed = gzip.GzipFile(fileobj=_Bounded(target, limit), mode="wb", compresslevel=1)
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _pack(archive, folder, last, name, 0)
        packed.close()
    finally:
        walk.close()


class _Walk:
    """The way from / to what a path means: the steps done, with an open folder for each that is below a root."""

    def __init__(self, roots: Mapping[str, str], path: str) -> None:
        self._roots = roots
        self._path = path
        self._pending = _steps(path)
        self._done: list[str] = []
        self._fds: list[int | None] = []
        self._links = 0

    def go(self) -> tuple[int, str]:
        """An open folder, and what of it is meant: a name, or "." for itself."""
        try:
            while self._pending:
                part = self._pending.pop()
                if part == "..":
                    self._back()
                elif not self._follow(part):
                    self._step(part)
        except OSError as error:
            why = "no such file or directory" if error.errno in _ABSENT else (error.strerror or str(error)).lower()
            raise NoSnapshot(f"{self._path}: {why}") from error
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
        if self._links > _MAX_LINKS:
            raise NoSnapshot(f"{self._path}: too many symbolic links")
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
            fd = os.open(self._roots[here], _FOLDER)
        elif folder is not None:
            found = os.lstat(part, dir_fd=folder)
            fd = os.open(part, _FOLDER, dir_fd=folder) if stat.S_ISDIR(found.st_mode) else -1
        elif not any(root.startswith(here + "/") for root in self._roots):
            raise self._outside()
        self._done.append(part)
        self._fds.append(fd)
        if len(self._done) > _MAX_DEPTH:
            raise NoSnapshot(f"{self._path}: is nested too deeply")

    def _back(self) -> None:
        if self._done:
            self._done.pop()
            _close(self._fds.pop())

    def _here(self, part: str) -> str:
        return "/" + "/".join([*self._done, part])

    def _outside(self) -> NoSnapshot:
        return NoSnapshot(f"{self._path}: leads out of the job's folders")

    def close(self) -> None:
        """Back to /."""
        while self._done:
            self._back()


def _steps(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _close(fd: int | None) -> None:
    if fd is not None and fd >= 0:
        os.close(fd)


def _pack(archive: tarfile.TarFile, folder: int, entry: str, name: str, depth: int) -> None:
    """Add `entry` of the open `folder`, and all below it; what vanishes meanwhile is passed over."""
    if depth > _MAX_DEPTH:
        raise NoSnapshot(f"{name}: is nested too deeply")
    try:
        found = os.lstat(entry, dir_fd=folder)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket is nothing to keep
        info = _info(name, kind, found)
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(entry, dir_fd=folder)
            archive.addfile(info)
        elif kind == tarfile.FIFOTYPE:
            archive.addfile(info)
        else:
            fd = os.open(entry, _FOLDER if kind == tarfile.DIRTYPE else _FILE, dir_fd=folder)
            try:
                _pack_open(archive, fd, info, depth)
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise NoSnapshot(f"{name}: {(error.strerror or str(error)).lower()}") from error


def _pack_open(archive: tarfile.TarFile, fd: int, info: tarfile.TarInfo, depth: int) -> None:
    found = os.fstat(fd)
    if _KINDS.get(stat.S_IFMT(found.st_mode)) != info.type:
        return  # something else has taken its place, which is as good as gone
    if info.type == tarfile.DIRTYPE:
        archive.addfile(info)
        for below in sorted(os.listdir(fd)):
            _pack(archive, fd, below, f"{info.name}/{below}", depth + 1)
    else:
        info.size = found.st_size
        archive.addfile(info, _Padded(fd, info.size))  # type: ignore[arg-type]


_KINDS: dict[int, bytes] = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def _info(name: str, kind: bytes, found: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = stat.S_IMODE(found.st_mode)
    info.mtime = int(found.st_mtime)
    info.uid, info.gid = found.st_uid, found.st_gid
    info.uname = info.gname = "user"
    return info


class _Bounded(io.RawIOBase):
    """Writes to a file, up to a limit."""

    def __init__(self, target: IO[bytes], limit: int) -> None:
        super().__init__()
        self._target = target
        self._limit = limit
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def] # any buffer
        size = len(data)
        self._written += size
        if self._written > self._limit:
            raise NoSnapshot(f"the snapshot is larger than {self._limit / (1 << 20):g} MB, which is the limit here")
        self._target.write(data)
        return size


class _Padded:
    """A file that is being written to, as long as it was when it was looked at."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._left = size

    def read(self, size: int) -> bytes:
        wanted = min(size, self._left)
        data = b""
        while len(data) < wanted:
            # it may have become shorter meanwhile
            data += os.read(self._fd, wanted - len(data)) or b"\0" * (wanted - len(data))
        self._left -= wanted
        return data
