"""Unpacking an image's layers into a root file system. A layer is hostile until proved otherwise."""

import hashlib
import io
import lzma
import os
import shutil
import stat
import tarfile
import zlib
from typing import IO, Dict, Optional, Set

from .compression import decompressed
from .model import PullError
from .tree import make_directories, make_mountpoint, remove_tree, resolve_in_root

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
MOUNT_FOLDERS = ("/home/user", "/tmp", "/var/tmp", "/proc", "/sys", "/dev", "/run", "/etc")
MOUNT_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/passwd", "/etc/group")


class Budget:
    """How much an image may unpack to, over all its layers."""

    def __init__(self, size: int, members: int = 4_000_000) -> None:
        self._size = self.left = size
        self._members = members
        self.used = 0

    def take(self, size: int) -> None:
        self.left -= size
        self.used += size
        self._members -= 1
        if self.left < 0:
            raise PullError(f"image: unpacks to more than {self._size // 1_000_000} MB")
        if self._members < 0:
            raise PullError("image: holds too many files")


class _Hashing(io.RawIOBase):
    """A stream that knows the sha256 of what was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()


def unpack_layer(stream: IO[bytes], root: str, budget: Budget, diff_id: str) -> None:
    """Apply one layer, compressed or not, to `root`; raises PullError if it is not what `diff_id` promises."""
    layer = _Layer(root, budget)
    try:
        hashing = _Hashing(decompressed(stream))
        with tarfile.open(fileobj=hashing, mode="r|", bufsize=1 << 18) as tar:
            for member in tar:
                layer.add(tar, member)
                tar.members = []  # type: ignore[attr-defined]  # a stream's members are never asked for again
        found = "sha256:" + hashing.hexdigest()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise PullError(f"image: a layer is damaged ({error})") from error
    if found != diff_id:
        raise PullError(f"image: a layer is not the one its configuration names ({found}, not {diff_id})")


class _Layer:
    def __init__(self, root: str, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._made: Set[str] = set()
        self._parents: Dict[str, str] = {}

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise PullError(f"image: a layer has the path {member.name!r}, which leaves the image")
        self._budget.take(member.size if member.isreg() else 0)
        if not parts:
            os.chmod(self._root, (member.mode & 0o777) | 0o755)
            return
        parent = self._parent("/".join(parts[:-1]))
        name = parts[-1]
        if name == _OPAQUE:
            self._hide(parent)
        elif name.startswith(_WHITEOUT):
            self._remove_lower(os.path.join(parent, name[len(_WHITEOUT) :]))
        else:
            self._make(tar, member, os.path.join(parent, name))

    def _parent(self, path: str) -> str:
        known = self._parents.get(path)
        if known is None:
            known = make_directories(self._root, resolve_in_root(self._root, path))
            self._parents[path] = known
        return known

    def _hide(self, folder: str) -> None:
        for entry in os.listdir(folder):
            self._remove_lower(os.path.join(folder, entry))

    def _remove_lower(self, path: str) -> None:
        if os.path.basename(path) in ("", ".", ".."):
            raise PullError("image: a layer has a whiteout of nothing")
        if path in self._made:
            return
        if os.path.isdir(path) and not os.path.islink(path) and any(m.startswith(path + "/") for m in self._made):
            self._hide(path)
            return
        remove_tree(path)
        self._parents.clear()

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        try:
            there: Optional[int] = os.lstat(path).st_mode
        except FileNotFoundError:
            there = None
        if member.isdir():
            if there is None or not stat.S_ISDIR(there):
                self._clear(path, there)
                os.mkdir(path)
            os.chmod(path, (member.mode & 0o1777) | 0o700)
        elif member.isreg():
            self._clear(path, there)
            self._write(tar, member, path)
        elif member.issym():
            self._clear(path, there)
            os.symlink(member.linkname, path)
        elif member.islnk():
            self._link(member, path, there)
            return
        else:
            return  # devices and pipes: a container gets its own /dev, and only root could make them
        self._made.add(path)

    def _clear(self, path: str, there: Optional[int]) -> None:
        if there is None:
            return
        if not stat.S_ISREG(there):
            self._parents.clear()
        remove_tree(path)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        source = tar.extractfile(member)
        if source is None:
            raise PullError(f"image: a layer is damaged at {member.name!r}")
        # The set-id bits would work for every user of the host who can reach the cache.
        mode = (member.mode & 0o777) | 0o600
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as out:
            shutil.copyfileobj(source, out, 1 << 18)
            os.fchmod(out.fileno(), mode)
        os.utime(path, (member.mtime, member.mtime))

    def _link(self, member: tarfile.TarInfo, path: str, there: Optional[int]) -> None:
        parts = [part for part in member.linkname.split("/") if part not in ("", ".")]
        if ".." in parts or not parts:
            raise PullError(f"image: a layer has a link to {member.linkname!r}, which leaves the image")
        target = resolve_in_root(self._root, "/".join(parts), follow_last=False)
        if target == path:
            return
        if not os.path.lexists(target) or os.path.isdir(target):
            raise PullError(f"image: a layer has a link to {member.linkname!r}, which is not in the image")
        self._clear(path, there)
        os.link(target, path, follow_symlinks=False)
        self._made.add(path)


def add_mountpoints(root: str) -> None:
    """Make what every runtime mounts over, since the root file system is shared and read-only later."""
    os.chmod(root, 0o755)
    for path in MOUNT_FOLDERS:
        make_mountpoint(root, path, True)
    for path in MOUNT_FILES:
        make_mountpoint(root, path, False)
    for path in ("/tmp", "/var/tmp"):
        os.chmod(resolve_in_root(root, path), 0o1777)
