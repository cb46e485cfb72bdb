"""Outputs' way onto the job's own storage, where that takes the object store's place.

The job may have planted links on it, and other jobs may write there at this moment: every step goes from one open
folder to the next, and a file gets its name when all of it is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from dataclasses import dataclass

from ..wire import Backoff
from .keeping import NOT_STORED, TRIES, Destination, Keeper, StageOutFailed
from .tree import FOLDER, Tree, Unsafe, parts_of

_PIECE = 1 << 20
#: What trying again will not change.
_FINAL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)


@dataclass(frozen=True)
class VolumeFolder(Destination):
    """A `folder` (relative) of the volume that is mounted at `point` on the node; it is made when it is needed."""

    point: str
    folder: str

    def open(self) -> Keeper:
        try:
            return _Copies(os.open(self.point, FOLDER), self.folder)
        except OSError as error:
            raise StageOutFailed(NOT_STORED, f"the job's storage can't be used, {error.strerror}") from error


class _Copies(Keeper):
    def __init__(self, root: int, folder: str) -> None:
        self._root = root
        self._folder = folder

    def shown(self, file: str) -> str:
        return f"{'/'.join([*parts_of(self._folder), file])} on the job's storage"

    def store(self, file: str, source: int) -> tuple[int, str, int]:
        backoff = Backoff(1.0, 15.0)
        tries = 0
        while True:
            tries += 1
            tree = Tree(self._root)
            try:
                return (*self._copy(tree, file, source), tries)
            except Unsafe as error:
                raise StageOutFailed(NOT_STORED, f"the job's storage can't take it: {error}") from error
            except OSError as error:
                sentence = f"the job's storage does not take it, {error.strerror}"
                if error.errno in _FINAL:
                    raise StageOutFailed(NOT_STORED, sentence) from error
            finally:
                tree.close()
            if tries >= TRIES:
                raise StageOutFailed(NOT_STORED, f"{sentence}; given up after {tries} tries")
            time.sleep(backoff.pause())

    def _copy(self, tree: Tree, file: str, source: int) -> tuple[int, str]:
        folder = parts_of(self._folder)
        part = (*folder, f".{file[:200]}.part")
        target = tree.create(part, 0o644)
        try:
            try:
                size, sha256 = _copied(source, target)
            finally:
                # the last of what was written may fail only now
                os.close(target)
            tree.rename(part, file)
        except BaseException:
            with contextlib.suppress(OSError, Unsafe):
                tree.remove(part)
            raise
        return size, sha256


def _copied(source: int, target: int) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    os.lseek(source, 0, os.SEEK_SET)
    while True:
        data = os.read(source, _PIECE)
        if not data:
            return size, digest.hexdigest()
        digest.update(data)
        size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
