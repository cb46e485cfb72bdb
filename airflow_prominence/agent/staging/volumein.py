"""An artifact on the job's own storage, where that takes the object store's place: read there as the job's user.

It is neither kept on the node nor taken from there: nobody could tell whether it is still the same.
"""

from __future__ import annotations

import os
import stat
import time
from typing import IO, Any, Mapping

from ..assignment import Artifact
from ..users import User
from ..within import NotThere
from .artifacts import DOWNLOAD_FAILED, UNPACK_FAILED, shown_size
from .asuser import ChildDied, as_user
from .finding import open_file
from .tree import FOLDER, Tree, Unsafe, parts_of
from .unpack import Budget, Kind, UnpackFailed, kind_of, unpack

_PIECE = 1 << 20


class _Failed(Exception):
    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class FromVolume:
    """The way of one artifact; `run` is called in a process of its own, since the storage may never answer.

    `roots` maps the container's path of the volume to the node's; `left` are the bytes left of the job's disk.
    """

    def __init__(self, artifact: Artifact, roots: Mapping[str, str], home: str, user: User, left: int) -> None:
        self._artifact = artifact
        self._roots = roots
        self._home = home
        self._user = user
        self._left = left
        self._kind = kind_of(artifact.filename)

    def run(self) -> dict[str, Any]:
        """`lines` for the job's story and `size`, the bytes of the job's disk it takes; else `reason` and `failed`."""
        shown = f"Artifact {self._artifact.filename}"
        home = os.open(self._home, FOLDER)
        try:
            answer = as_user(self._user, lambda: self._as_user(home), [home])
        except ChildDied as error:
            return {
                "reason": DOWNLOAD_FAILED,
                "failed": f"{shown}: reading it from the job's storage broke off, {error}",
            }
        finally:
            os.close(home)
        if "failed" in answer:
            return {"reason": answer["reason"], "failed": f"{shown}: {answer['failed']}"}
        return {"size": answer["size"], "lines": [f"{shown}: {line}" for line in answer["lines"]]}

    def _as_user(self, home: int) -> dict[str, Any]:
        try:
            return self._stage(home)
        except NotThere as error:
            return {"reason": DOWNLOAD_FAILED, "failed": f"on the job's storage, {error}"}
        except _Failed as failure:
            return {"reason": failure.reason, "failed": str(failure)}
        except (Unsafe, UnpackFailed) as error:
            return {"reason": UNPACK_FAILED, "failed": str(error)}
        except OSError as error:
            return {"reason": DOWNLOAD_FAILED, "failed": f"it can't be copied from the job's storage, {error.strerror}"}

    def _stage(self, home: int) -> dict[str, Any]:
        began = time.monotonic()
        fd = open_file(self._roots, str(self._artifact.stored))
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise _Failed(DOWNLOAD_FAILED, f"{self._artifact.stored} on the job's storage is no file")
        with open(fd, "rb") as source:
            line = f"{shown_size(found.st_size)} read from the job's storage"
            lines: list[str] = []
            if self._kind is None:
                size = self._copy(source, home)
            else:
                size, said, lines = self._unpack(source, self._kind, home)
                line += said
        self._make_executable(home)
        return {"size": size, "lines": [f"{line} in {time.monotonic() - began:.1f} s", *lines]}

    def _copy(self, source: IO[bytes], home: int) -> int:
        tree = Tree(home)
        size = 0
        with open(tree.create((self._artifact.filename,), 0o644), "wb") as target:
            while data := source.read(_PIECE):
                size += len(data)
                if size > self._left:
                    left = shown_size(self._left)
                    raise _Failed(DOWNLOAD_FAILED, f"it is larger than the {left} that are left of the job's disk")
                target.write(data)
        tree.close()
        return size

    def _unpack(self, source: IO[bytes], kind: Kind, home: int) -> tuple[int, str, list[str]]:
        done = unpack(source, kind, home, Budget(self._left))
        lines = []
        if done.left_out:
            lines = [f"left out, since no job can have devices or pipes: {', '.join(done.left_out[:20])}"]
        files = f"{done.files} file{'' if done.files == 1 else 's'}"
        return done.size, f" and unpacked to {files} of {shown_size(done.size)}", lines

    def _make_executable(self, home: int) -> None:
        """Of a single file only: an archive's files have their own modes."""
        name = self._artifact.filename if self._kind is None else self._kind.plain
        if not self._artifact.executable or not name:
            return
        (plain,) = parts_of(name)
        fd = os.open(plain, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
        os.fchmod(fd, 0o755)
        os.close(fd)
