"""Unpacking a squashfs file system, which is what Singularity images hold, with nothing but the standard library.

No program of the node is needed, and nothing is ever written but by us: names, links and sizes are hostile until
proved otherwise, as those of a layer are. The format is version 4.0, as every mksquashfs since 2009 writes it.
"""

import os
import struct
from typing import Dict, Iterator, List, Set, Tuple

from .compression import Decompress, block_decompressor
from .model import PullError
from .unpack import Budget

MAGIC = b"hsqs"
_SUPERBLOCK = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_KINDS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_METADATA = 8192
_UNCOMPRESSED = 1 << 15
_UNCOMPRESSED_DATA = 1 << 24
_NO_FRAGMENT = 0xFFFFFFFF
_NOWHERE = 0xFFFFFFFFFFFFFFFF
_FRAGMENTS_PER_BLOCK = _METADATA // 16
_KEPT_FRAGMENTS = 8
_KEPT_BLOCKS = 4096
_LONGEST_NAME = 255
_LONGEST_LINK = 4095
_HEADER = struct.Struct("<HHHHII")
_FOLDER = struct.Struct("<IIHHI")
_LONG_FOLDER = struct.Struct("<IIIIHHI")
_FILE = struct.Struct("<IIII")
_LONG_FILE = struct.Struct("<QQQIIII")
_LINK = struct.Struct("<II")
_LISTING = struct.Struct("<III")
_ENTRY = struct.Struct("<HhHH")
_FRAGMENT = struct.Struct("<QII")


class _Metadata:
    """A stream over one of the tables, which are chains of small blocks, each compressed by itself."""

    def __init__(self, image: "Squashfs", table: int, block: int, offset: int) -> None:
        self._image = image
        self._next = table + block
        self._data = b""
        self._at = 0
        self._fill()
        self._at = offset

    def _fill(self) -> None:
        data, self._next = self._image.metadata(self._next)
        if not data:
            raise PullError("image: its file system is damaged (an empty block)")
        self._data = self._data[self._at :] + data
        self._at = 0

    def read(self, size: int) -> bytes:
        while len(self._data) - self._at < size:
            self._fill()
        self._at += size
        return self._data[self._at - size : self._at]

    def unpack(self, form: struct.Struct) -> Tuple[int, ...]:
        return form.unpack(self.read(form.size))


class Squashfs:
    """The file system at `offset` of an opened file; `size` bytes at most belong to it."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._size = size
        fields = _SUPERBLOCK.unpack(self._read(0, _SUPERBLOCK.size))
        self._block_size, kind, major, minor = fields[3], fields[5], fields[9], fields[10]
        if fields[0] != MAGIC or (major, minor) != (4, 0) or not 4096 <= self._block_size <= 1 << 20:
            raise PullError("image: its file system is not squashfs 4.0")
        self._root, self._inodes, self._folders = fields[11], fields[15], fields[16]
        self._decompress: Decompress = block_decompressor(_KINDS.get(kind, f"method {kind}"))
        self._blocks: Dict[int, Tuple[bytes, int]] = {}
        self._fragment_count = fields[4]
        self._fragment_table = fields[17]
        self._fragments: Dict[int, bytes] = {}

    def unpack(self, root: str, budget: Budget) -> None:
        """Write everything to the empty folder `root`."""
        try:
            self._unpack(root, budget)
        except struct.error as error:
            raise PullError(f"image: its file system is damaged ({error})") from error
        except FileExistsError as error:
            raise PullError("image: its file system is damaged (two things of one name)") from error

    def _unpack(self, root: str, budget: Budget) -> None:
        seen: Set[int] = set()
        links: Dict[int, str] = {}
        waiting: List[Tuple[str, int]] = [(root, self._root)]
        while waiting:
            path, reference = waiting.pop()
            if reference in seen:
                raise PullError("image: its file system is damaged (a folder in two places)")
            seen.add(reference)
            kind, mode, _, stream = self._open(reference)
            os.chmod(path, mode & 0o1777 | 0o700)
            for name, is_folder, inode in self._listing(kind, stream):
                inside = os.path.join(path, name)
                if is_folder:
                    budget.take(0)
                    os.mkdir(inside)
                    waiting.append((inside, inode))
                elif inode in links:
                    budget.take(0)
                    os.link(links[inode], inside, follow_symlinks=False)
                elif self._make(inside, inode, budget):
                    links[inode] = inside

    def _open(self, reference: int) -> Tuple[int, int, int, _Metadata]:
        """Kind, mode and mtime of an inode, and the rest of it."""
        stream = _Metadata(self, self._inodes, reference >> 16, reference & 0xFFFF)
        kind, mode, _, _, mtime, _ = stream.unpack(_HEADER)
        return kind, mode, mtime, stream

    def _listing(self, kind: int, stream: _Metadata) -> Iterator[Tuple[str, bool, int]]:
        if kind == 1:
            block, _, size, offset, _ = stream.unpack(_FOLDER)
        elif kind == 8:
            _, size, block, _, _, offset, _ = stream.unpack(_LONG_FOLDER)
        else:
            raise PullError("image: its file system is damaged (no folder where one should be)")
        left = size - 3  # the format counts . and .. in
        if left <= 0:
            return
        table = _Metadata(self, self._folders, block, offset)
        while left > 0:
            count, start, _ = table.unpack(_LISTING)
            left -= _LISTING.size
            for _ in range(count + 1):
                inside, _, kind, length = table.unpack(_ENTRY)
                if length >= _LONGEST_NAME:
                    raise PullError("image: its file system is damaged (a name too long)")
                name = os.fsdecode(table.read(length + 1))
                left -= _ENTRY.size + length + 1
                if name in ("", ".", "..") or "/" in name or "\0" in name:
                    raise PullError(f"image: its file system has the name {name!r}, which leaves the image")
                yield name, kind == 1, start << 16 | inside

    def _make(self, path: str, reference: int, budget: Budget) -> bool:
        """Make what is no folder; False for what is left out."""
        kind, mode, mtime, stream = self._open(reference)
        if kind in (2, 9):
            if kind == 2:
                start, fragment, inside, size = stream.unpack(_FILE)
            else:
                start, size, _, _, fragment, inside, _ = stream.unpack(_LONG_FILE)
            # Before anything of that length is read: a size is as quickly written as any other.
            budget.take(size)
            self._write(path, mode, mtime, self._content(stream, start, size, fragment, inside))
        elif kind in (3, 10):
            budget.take(0)
            _, length = stream.unpack(_LINK)
            target = stream.read(length) if 0 < length <= _LONGEST_LINK else b"\0"
            if b"\0" in target:
                raise PullError("image: its file system is damaged (a link to nowhere)")
            os.symlink(os.fsdecode(target), path)
        else:
            return False  # devices, pipes and sockets: a container gets its own /dev
        return True

    def _write(self, path: str, mode: int, mtime: int, content: Iterator[bytes]) -> None:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as out:
            out.writelines(content)
            # The set-id bits would work for every user of the host who can reach the cache.
            os.fchmod(out.fileno(), mode & 0o777 | 0o600)
        os.utime(path, (mtime, mtime))

    def _content(self, stream: _Metadata, start: int, size: int, fragment: int, inside: int) -> Iterator[bytes]:
        whole, rest = divmod(size, self._block_size)
        count = whole + (1 if rest and fragment == _NO_FRAGMENT else 0)
        for index in range(count):
            (stored,) = struct.unpack("<I", stream.read(4))
            want = min(self._block_size, size - index * self._block_size)
            length = stored & ~_UNCOMPRESSED_DATA
            if length == 0:
                data = bytes(want)  # a hole
            else:
                data = self._data(start, length, not stored & _UNCOMPRESSED_DATA)
                start += length
            if len(data) != want:
                raise PullError("image: its file system is damaged (a block of a wrong length)")
            yield data
        if rest and fragment != _NO_FRAGMENT:
            data = self._fragment(fragment)[inside : inside + rest]
            if len(data) != rest:
                raise PullError("image: its file system is damaged (the end of a file is missing)")
            yield data

    def _fragment(self, index: int) -> bytes:
        """A block that the ends of several files share; the last ones are kept, since those files come one by one."""
        have = self._fragments.get(index)
        if have is not None:
            return have
        if index >= self._fragment_count:
            raise PullError("image: its file system is damaged (no such fragment)")
        (where,) = struct.unpack("<Q", self._read(self._fragment_table + index // _FRAGMENTS_PER_BLOCK * 8, 8))
        table, _ = self.metadata(where)
        start, stored, _ = _FRAGMENT.unpack_from(table, index % _FRAGMENTS_PER_BLOCK * _FRAGMENT.size)
        length = stored & ~_UNCOMPRESSED_DATA
        data = self._data(start, length, not stored & _UNCOMPRESSED_DATA)
        if len(self._fragments) >= _KEPT_FRAGMENTS:
            self._fragments.pop(next(iter(self._fragments)))
        self._fragments[index] = data
        return data

    def _data(self, start: int, length: int, compressed: bool) -> bytes:
        if length > 2 * self._block_size:
            raise PullError("image: its file system is damaged (a block too long)")
        data = self._read(start, length)
        return self._decompress(data, self._block_size) if compressed else data

    def metadata(self, start: int) -> Tuple[bytes, int]:
        """One block of a table, and where the next one starts."""
        have = self._blocks.get(start)
        if have is None:
            (header,) = struct.unpack("<H", self._read(start, 2))
            length = header & ~_UNCOMPRESSED
            data = self._read(start + 2, length)
            if not header & _UNCOMPRESSED:
                data = self._decompress(data, _METADATA)
            have = data, start + 2 + length
            if len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.clear()
            self._blocks[start] = have
        return have

    def _read(self, start: int, length: int) -> bytes:
        if not 0 <= start <= self._size - length:
            raise PullError("image: its file system is damaged (it points beyond its end)")
        data = os.pread(self._fd, length, self._offset + start)
        if len(data) != length:
            raise PullError("image: its file system is cut off")
        return data
