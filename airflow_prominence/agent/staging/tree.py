"""Writing below an open folder and nowhere else: every step goes from one open folder to the next, never by a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Iterable, Iterator, Tuple

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 200

Parts = Tuple[str, ...]


class Unsafe(Exception):
    """A path that would leave the folder, or can't be in it; one sentence."""


def parts_of(name: str) -> Parts:
    """The steps of a path of an archive or document, which must not climb; a leading slash means the folder."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise Unsafe(f"it holds the path {name!r}, which leads out of its folder")
    if len(parts) > _DEEPEST:
        raise Unsafe(f"it holds folders more than {_DEEPEST} deep")
    return parts


class Tree:
    """Makes folders, files and links below a folder; what is there of the same name is replaced, folders are joined.

    No set-id bits, and always writable by its owner, so that a job can change what it was given; with `owner` (root
    only) all that is made belongs to that uid and gid.
    """

    def __init__(self, folder: int, owner: tuple[int, int] | None = None) -> None:
        self._opened: list[tuple[str, int]] = []  # the way to the folder used last
        self._root = folder
        self._owner = owner

    def close(self) -> None:
        self._back_to(0)

    def make_folder(self, parts: Parts, mode: int) -> None:
        if parts:
            os.fchmod(self._folder(parts), (mode & 0o777) | 0o700)

    def open_folder(self, parts: Parts) -> int:
        """A descriptor of one's own of this folder, made where it is missing."""
        return os.dup(self._folder(parts))

    def create(self, parts: Parts, mode: int) -> int:
        """A new file's descriptor."""
        parent = self._cleared(parts)
        with _named(parts):
            fd = os.open(parts[-1], _NEW, 0o600, dir_fd=parent)
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, (mode & 0o777) | 0o600)
        return fd

    def symlink(self, parts: Parts, target: str) -> None:
        """A link that is only text here: the container that it is followed in has a root of its own."""
        if not target or "\0" in target:
            raise Unsafe(f"it holds a link that leads nowhere, {parts[-1]!r}")
        parent = self._cleared(parts)
        with _named(parts):
            os.symlink(target, parts[-1], dir_fd=parent)
        if self._owner is not None:
            os.chown(parts[-1], *self._owner, dir_fd=parent, follow_symlinks=False)

    def link(self, there: Parts, parts: Parts) -> None:
        """Another name of a file that is below the folder already."""
        if not there:
            raise Unsafe("it holds a link to its own folder")
        if there == parts:
            return
        parent = self._cleared(parts)
        try:
            source = self._walk(there[:-1])
            try:
                with _named(there):
                    os.link(there[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        except FileNotFoundError as error:
            raise Unsafe(f"it holds a link to {'/'.join(there)!r}, which is not in it") from error

    def rename(self, parts: Parts, name: str) -> None:
        """Give what is there another name in its folder, at once and in place of a file that has it."""
        parent = self._folder(parts[:-1])
        with _named((*parts[:-1], name)):
            os.rename(parts[-1], name, src_dir_fd=parent, dst_dir_fd=parent)

    def remove(self, parts: Parts) -> None:
        os.unlink(parts[-1], dir_fd=self._folder(parts[:-1]))

    def _cleared(self, parts: Parts) -> int:
        """The folder in which the last step can be made."""
        parent = self._folder(parts[:-1])
        with contextlib.suppress(FileNotFoundError), _named(parts):
            os.unlink(parts[-1], dir_fd=parent)
        return parent

    def _folder(self, parts: Parts) -> int:
        """The open folder of this path, made where it is missing."""
        same = 0
        for (name, _), part in zip(self._opened, parts):
            if name != part:
                break
            same += 1
        self._back_to(same)
        here = self._opened[-1][1] if self._opened else self._root
        for index in range(same, len(parts)):
            part = parts[index]
            with _named(parts[: index + 1]):
                made = False
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                    made = True
                here = os.open(part, FOLDER, dir_fd=here)
                self._opened.append((part, here))
                if made and self._owner is not None:
                    os.fchown(here, *self._owner)
                if made:
                    os.fchmod(here, 0o755)
        return here

    def _walk(self, parts: Parts) -> int:
        here = os.dup(self._root)
        for index, part in enumerate(parts):
            try:
                with _named(parts[: index + 1]):
                    below = os.open(part, FOLDER, dir_fd=here)
            finally:
                os.close(here)
            here = below
        return here

    def _back_to(self, depth: int) -> None:
        while len(self._opened) > depth:
            os.close(self._opened.pop()[1])


@contextlib.contextmanager
def _named(parts: Parts) -> Iterator[None]:
    """Say which path it is that can't be made, where that is the path's own fault."""
    try:
        yield
    except OSError as error:
        path = "/".join(parts)[-200:]
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unsafe(f"the path {path!r} leads through a link or a file") from error
        if error.errno in (errno.EISDIR, errno.EPERM):
            raise Unsafe(f"{path!r} is a folder already") from error
        if error.errno == errno.ENAMETOOLONG:
            raise Unsafe(f"the path {path!r} is too long") from error
        raise


def copy_tree(source: int, target: Tree) -> int:
    """Copy what is in an open folder, which nobody changes meanwhile, into a tree; how many bytes of files."""
    return _copy_folder(source, (), target, {})


def _copy_folder(source: int, at: Parts, target: Tree, known: dict[tuple[int, int], Parts]) -> int:
    size = 0
    for entry in _listed(source):
        parts = (*at, entry.name)
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            target.make_folder(parts, found.st_mode)
            below = os.open(entry.name, FOLDER, dir_fd=source)
            try:
                size += _copy_folder(below, parts, target, known)
            finally:
                os.close(below)
        elif stat.S_ISLNK(found.st_mode):
            target.symlink(parts, os.readlink(entry.name, dir_fd=source))
        elif found.st_nlink > 1 and (found.st_dev, found.st_ino) in known:
            target.link(known[found.st_dev, found.st_ino], parts)
        else:
            known[found.st_dev, found.st_ino] = parts
            size += _copy_file(source, entry.name, found, target.create(parts, found.st_mode))
    return size


def _listed(folder: int) -> Iterable[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _copy_file(folder: int, name: str, found: os.stat_result, into: int) -> int:
    try:
        out = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            copy_bytes(out, into)
        finally:
            os.close(out)
        os.utime(into, ns=(found.st_mtime_ns, found.st_mtime_ns))
    finally:
        os.close(into)
    return found.st_size


def copy_bytes(source: int, target: int) -> None:
    """Copy a whole file in the kernel, where the file system can without copying anything at all."""
    try:
        while os.copy_file_range(source, target, 1 << 30):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    os.lseek(source, 0, os.SEEK_SET)
    os.lseek(target, 0, os.SEEK_SET)
    while os.sendfile(target, source, None, 1 << 30):
        pass
