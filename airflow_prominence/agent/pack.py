"""A file or folder of a job as a compressed tar archive, even while the job changes it."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from typing import IO, Mapping

from .within import ABSENT, DEEPEST, FILE, FOLDER, NotThere, Walk, why

#: Fast rather than small: what is packed is on its way over a network that is rarely slower than this.
_LEVEL = 1


class TooLarge(Exception):
    """The archive would be larger than it may be; said of it, as in "is larger than 5 MB"."""


def pack(roots: Mapping[str, str], path: str, name: str, target: IO[bytes], limit: int) -> int:
    """Write a compressed archive of the container path `path` to `target`, its members named from `name` on.

    `roots` maps the container's paths that may be read to the host's; `limit` is in bytes. How many files are in it;
    raises NotThere and TooLarge.
    """
    walk = Walk(roots, path)
    try:
        folder, last = walk.go()
        packed = gzip.GzipFile(fileobj=_Bounded(target, limit), mode="wb", compresslevel=_LEVEL)
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            files = _pack(archive, folder, last, name, 0)
        packed.close()
        return files
    finally:
        walk.close()


def _pack(archive: tarfile.TarFile, folder: int, entry: str, name: str, depth: int) -> int:
    """Add `entry` of the open `folder`, and all below it; what vanishes meanwhile is passed over."""
    if depth > DEEPEST:
        raise NotThere(f"{name}: is nested too deeply")
    try:
        found = os.lstat(entry, dir_fd=folder)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return 0  # a socket is nothing to keep
        info = _info(name, kind, found)
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(entry, dir_fd=folder)
            archive.addfile(info)
        elif kind == tarfile.FIFOTYPE:
            archive.addfile(info)
        else:
            fd = os.open(entry, FOLDER if kind == tarfile.DIRTYPE else FILE, dir_fd=folder)
            try:
                return _pack_open(archive, fd, info, depth)
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno not in ABSENT:
            raise NotThere(f"{name}: {why(error)}") from error
    return 0


def _pack_open(archive: tarfile.TarFile, fd: int, info: tarfile.TarInfo, depth: int) -> int:
    found = os.fstat(fd)
    if _KINDS.get(stat.S_IFMT(found.st_mode)) != info.type:
        return 0  # something else has taken its place, which is as good as gone
    if info.type == tarfile.DIRTYPE:
        archive.addfile(info)
        return sum(_pack(archive, fd, below, f"{info.name}/{below}", depth + 1) for below in sorted(os.listdir(fd)))
    info.size = found.st_size
    archive.addfile(info, _Padded(fd, info.size))  # type: ignore[arg-type]
    return 1


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
            raise TooLarge(f"is larger than {self._limit / (1 << 20):g} MB")
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
