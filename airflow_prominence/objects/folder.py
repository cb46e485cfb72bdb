"""A tree of files that is walked part by part without following any link, so that nothing outside is ever reached."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a named pipe would hold the thread for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TRIES = 20

Parts = Sequence[str]


class NotAFile(OSError):
    """Where a file was looked for is a folder, a link or a device; or a file where a folder was."""


class Folder:
    """The tree below ``root``; names are given as their parts, none of them empty, ``.`` or ``..``.

    The root itself may be a link: where the tree is, is the admin's choice.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self) -> None:
        """Make the root, its owner's alone."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _at(self, parts: Parts, *, make: bool = False) -> Iterator[int]:
        """Open the folder of these parts; raises FileNotFoundError, :class:`NotAFile` if a part is no folder."""
        here = os.open(self.root, _FOLDER)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=here)
                        os.fsync(here)
                below = _open_folder(part, here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def open(self, parts: Parts) -> int:
        """Return a descriptor of a file, open for reading; raises FileNotFoundError and :class:`NotAFile`."""
        with self._at(parts[:-1]) as folder:
            try:
                found = os.open(parts[-1], _FILE, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise NotAFile(error.errno, "is no file") from None
                raise
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise NotAFile(errno.EISDIR, "is no file")
        return found

    def create(self, name: str) -> int:
        """Make a new file right below the root; return a descriptor, open for writing."""
        with self._at(()) as folder:
            return os.open(name, _NEW, 0o600, dir_fd=folder)

    def move_here(self, source: Folder, name: str, parts: Parts) -> None:
        """Move a file of another folder on the same file system to ``parts``, in place of what was there, for good."""
        for turn in range(_TRIES):
            try:
                with source._at(()) as old, self._at(parts[:-1], make=True) as new:
                    os.rename(name, parts[-1], src_dir_fd=old, dst_dir_fd=new)
                    os.fsync(new)
                return
            except FileNotFoundError:
                # Who deleted the last object of the folder took the folder away meanwhile.
                if turn == _TRIES - 1:
                    raise
            except (IsADirectoryError, NotADirectoryError) as error:
                raise NotAFile(error.errno, "is no file") from None

    def remove(self, parts: Parts) -> None:
        """Remove a file, if there is one, and the folders that are empty without it."""
        try:
            with self._at(parts[:-1]) as folder:
                if stat.S_ISDIR(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                    return
                os.unlink(parts[-1], dir_fd=folder)
                os.fsync(folder)
        except (FileNotFoundError, NotAFile):
            return
        self._prune(parts[:-1])

    def _prune(self, parts: Parts) -> None:
        for count in range(len(parts), 0, -1):
            try:
                with self._at(parts[: count - 1]) as folder:
                    os.rmdir(parts[count - 1], dir_fd=folder)
            except OSError:
                return

    def files(self, parts: Parts) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
        """Yield every file below a folder, by its parts from the root, with its stat; links are passed over."""
        try:
            with self._at(parts) as folder:
                names = sorted(os.listdir(folder))
                found = []
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        except (FileNotFoundError, NotAFile):
            return
        for name, facts in found:
            if stat.S_ISDIR(facts.st_mode):
                yield from self.files((*parts, name))
            elif stat.S_ISREG(facts.st_mode):
                yield (*parts, name), facts


def _open_folder(name: str, above: int) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise NotAFile(error.errno, "is no folder") from None
        raise
