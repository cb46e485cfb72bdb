"""An object on its way into the local store: written and counted piece by piece, seen by nobody before it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import uuid
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_prominence.objects.folder import Folder, NotAFile
from airflow_prominence.objects.model import ChecksumMismatch, KeyTaken, NoRoom, ObjectInfo

if TYPE_CHECKING:
    from typing_extensions import Self

#: The checksum stands beside the bytes, in an extended attribute: it comes and goes with them.
_ATTRIBUTE = "user.prominence.sha256"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Incoming:
    """A file under a name of its own until :meth:`keep`; leaving the ``with`` block without it leaves nothing."""

    def __init__(self, waiting: Folder, objects: Folder, key: str, parts: tuple[str, ...]) -> None:
        self._waiting, self._objects = waiting, objects
        self._key, self._parts = key, parts
        self._name = uuid.uuid4().hex
        self._digest = hashlib.sha256()
        self._open = True
        self._file = waiting.create(self._name)
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def write(self, data: bytes) -> None:
        """Add bytes; raise :class:`NoRoom` when the disk is full."""
        view = memoryview(data)
        self._digest.update(view)
        while view:
            try:
                written = os.write(self._file, view)
            except OSError as error:
                if error.errno in _FULL:
                    raise NoRoom("The object storage is full") from None
                raise
            view = view[written:]
            self.size += written

    def keep(self, sha256: str | None = None) -> ObjectInfo:
        """Make it the object, on disk for good; raise :class:`ChecksumMismatch` if it is another than announced."""
        found = self._digest.hexdigest()
        if sha256 is not None and sha256.lower() != found:
            raise ChecksumMismatch(f"The checksum of what arrived is {found}, not {sha256.lower()}: nothing was kept")
        # A file system without attributes only means that nobody can be told the checksum.
        with contextlib.suppress(OSError):
            os.setxattr(self._file, _ATTRIBUTE, found.encode())
        # A file system's own clock is some milliseconds behind, or a file server's: older than its announcement.
        now = time.time_ns()
        os.utime(self._file, ns=(now, now))
        try:
            os.fsync(self._file)
        except OSError as error:
            if error.errno in _FULL:
                raise NoRoom("The object storage is full") from None
            raise
        modified = os.fstat(self._file).st_mtime
        try:
            self._objects.move_here(self._waiting, self._name, self._parts)
        except NotAFile:
            raise KeyTaken(
                f"{self._parts[-1]!r} cannot be stored: its name is that of a folder, or it lies below another object"
            ) from None
        self._close()
        return ObjectInfo(self._key, self.size, modified, found)

    def drop(self) -> None:
        """Forget what has arrived; does nothing after :meth:`keep`."""
        if self._open:
            self._close()
            self._waiting.remove((self._name,))

    def _close(self) -> None:
        self._open = False
        os.close(self._file)


def checksum_of(file: int) -> str | None:
    """Return the checksum that was counted when the file of this descriptor arrived."""
    try:
        return os.getxattr(file, _ATTRIBUTE).decode()
    except OSError:
        return None
