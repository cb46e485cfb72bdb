"""Unpacking an artifact by its suffix, as the job's user. An archive is hostile until proved otherwise."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import stat
import tarfile
import time
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import IO, Any

from .tree import Parts, Tree, Unsafe, parts_of

_PIECE = 1 << 18
_LONGEST_LINK = 4096
#: Read after a tar archive's end, so that the checksum behind it is looked at: padding, never a bomb.
_AFTER_TAR = 1 << 24

_COMPRESSED_TAR = {
    ".tgz": "gz",
    ".tar.gz": "gz",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tbz": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
    ".tar": "",
}
_COMPRESSED = {".gz": "gz", ".bz2": "bz2", ".xz": "xz"}


class UnpackFailed(Exception):
    """One sentence says why the archive can't be unpacked."""


@dataclass
class Budget:
    """How much may come out of an archive: bytes, and files of any kind."""

    size: int
    files: int = 1_000_000
    used: int = 0
    made: int = 0

    def take(self, size: int) -> None:
        self.used += size
        self.foresee(0)

    def foresee(self, size: int) -> None:
        """Refuse what would not fit before any of it is written."""
        if self.used + size > self.size:
            raise UnpackFailed(f"it unpacks to more than the {self.size / 1e6:.1f} MB that are left of the job's disk")

    def add_file(self) -> None:
        self.made += 1
        if self.made > self.files:
            raise UnpackFailed(f"it holds more than {self.files} files")


@dataclass
class Unpacked:
    """What came out, and the names of what was left out because no job can have it: devices, pipes."""

    files: int = 0
    size: int = 0
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """How a file is unpacked; `plain` is what a single compressed file is called afterwards."""

    archive: str  # tar, zip, or empty for a single file
    compression: str
    plain: str = ""


def kind_of(filename: str) -> Kind | None:
    """None for what is no archive by its name."""
    lower = filename.lower()

    def is_(suffix: str) -> bool:
        return lower.endswith(suffix) and len(lower) > len(suffix)

    for suffix, compression in _COMPRESSED_TAR.items():
        if is_(suffix):
            return Kind("tar", compression)
    if is_(".zip"):
        return Kind("zip", "")
    for suffix, compression in _COMPRESSED.items():
        if is_(suffix):
            return Kind("", compression, filename[: -len(suffix)])
    return None


def unpack(source: IO[bytes], kind: Kind, folder: int, budget: Budget) -> Unpacked:
    """Unpack into an open folder. Raises UnpackFailed, or OSError for what the disk can't take."""
    done = Unpacked()
    tree = Tree(folder)
    try:
        if kind.archive == "zip":
            _unzip(source, tree, budget, done)
        elif kind.archive == "tar":
            _untar(_decompressed(source, kind.compression), tree, budget, done)
        else:
            budget.add_file()
            _copy(_decompressed(source, kind.compression), tree, (kind.plain,), 0o644, budget)
    except Unsafe as error:
        raise UnpackFailed(str(error)) from error
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise UnpackFailed(f"it is damaged or of an unknown kind ({error})") from error
    except (MemoryError, RecursionError) as error:
        raise UnpackFailed("it is made so that nothing can unpack it") from error
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnpackFailed(f"it is damaged ({error})") from error
    finally:
        tree.close()
    done.files, done.size = budget.made, budget.used
    return done


def _decompressed(source: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gz":
        return io.BufferedReader(_Gunzip(source), _PIECE)
    if compression == "bz2":
        return bz2.BZ2File(source)
    if compression == "xz":
        opened: IO[bytes] = lzma.LZMAFile(source)
        return opened
    return source


class _Gunzip(io.RawIOBase):
    """What gzip files hold, one or several in a row, in larger pieces than the standard library's own reader takes."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._rest = b""
        self._inside: Any = None
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while True:
            if not self._rest:
                self._rest = self._source.read(_PIECE)
            if self._inside is None:
                if self._begun and not self._rest:
                    return 0
                if self._begun and not self._rest.strip(b"\0"):
                    self._rest = b""  # what tapes and some tools pad with
                    continue
                self._inside, self._begun = zlib.decompressobj(31), True
            given = self._rest
            data: bytes = self._inside.decompress(given, len(into))
            if self._inside.eof:
                self._rest, self._inside = self._inside.unused_data, None
            else:
                self._rest = self._inside.unconsumed_tail
                if not given and not data:
                    raise EOFError("it ends too early")
            if data:
                into[: len(data)] = data
                return len(data)


def _copy(source: IO[bytes], tree: Tree, parts: Parts, mode: int, budget: Budget, mtime: float = -1.0) -> int:
    """Copy to a new file; how many bytes."""
    size = 0
    with os.fdopen(tree.create(parts, mode), "wb", buffering=0) as out:
        while True:
            data = source.read(_PIECE)
            if not data:
                break
            budget.take(len(data))
            size += len(data)
            view = memoryview(data)
            while view:
                view = view[out.write(view) :]
        # some archives have times that no file can have
        if 0 <= mtime < 1 << 33:
            os.utime(out.fileno(), (mtime, mtime))
    return size


def _untar(stream: IO[bytes], tree: Tree, budget: Budget, done: Unpacked) -> None:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as tar:
        for member in tar:
            parts = parts_of(member.name)
            budget.add_file()
            if member.isdir():
                tree.make_folder(parts, member.mode)
            elif not parts:
                raise UnpackFailed(f"it holds a file called {member.name!r}")
            elif member.isreg():
                budget.foresee(member.size)
                content = tar.extractfile(member)
                if content is None or _copy(content, tree, parts, member.mode, budget, member.mtime) != member.size:
                    raise UnpackFailed(f"it is damaged at {member.name!r}")
            elif member.issym():
                tree.symlink(parts, member.linkname)
            elif member.islnk():
                tree.link(parts_of(member.linkname), parts)
            else:
                done.left_out.append(member.name)
            tar.members = []  # type: ignore[attr-defined]  # a stream's members are never asked for again
    left = _AFTER_TAR
    while left > 0:
        data = stream.read(min(left, _PIECE))
        if not data:
            return
        left -= len(data)


def _unzip(source: IO[bytes], tree: Tree, budget: Budget, done: Unpacked) -> None:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            name = info.filename
            if info.create_system == 0 and "/" not in name:
                name = name.replace("\\", "/")  # some Windows tools write their own way
            parts = parts_of(name)
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            budget.add_file()
            if name.endswith("/") or kind == stat.S_IFDIR:
                tree.make_folder(parts, mode or 0o755)
            elif not parts:
                raise UnpackFailed(f"it holds a file called {info.filename!r}")
            elif info.flag_bits & 1:
                raise UnpackFailed("it is encrypted")
            elif kind == stat.S_IFLNK:
                with archive.open(info) as content:
                    tree.symlink(parts, _link_target(content, name))
            elif kind in (0, stat.S_IFREG):
                budget.foresee(info.file_size)
                with archive.open(info) as content:
                    if _copy(content, tree, parts, mode or 0o644, budget, _time_of(info)) != info.file_size:
                        raise UnpackFailed(f"it is damaged at {name!r}")
            else:
                done.left_out.append(name)


def _link_target(content: IO[bytes], name: str) -> str:
    target = content.read(_LONGEST_LINK + 1)
    if not target or len(target) > _LONGEST_LINK or b"\0" in target:
        raise UnpackFailed(f"it holds a link that leads nowhere, {name!r}")
    return os.fsdecode(target)


def _time_of(info: zipfile.ZipInfo) -> float:
    try:
        return time.mktime((*info.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return -1.0
