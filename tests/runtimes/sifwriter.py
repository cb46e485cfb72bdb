"""Writing a Singularity image with nothing but the standard library, so that no test needs Singularity's tools.

The squashfs in it is plain: metadata uncompressed, data by zlib, no fragments. What mksquashfs and apptainer write is
read in tests of its own.
"""

import os
import struct
import zlib
from collections.abc import Sequence

from airflow_prominence.agent.images.build import Entry
from airflow_prominence.agent.images.platforms import architecture

BLOCK = 1 << 17
Inode = tuple[tuple[int, int], int, int]
"""Where it is (block, place in it), its number, and its kind."""
_NOWHERE = 0xFFFFFFFFFFFFFFFF
_MACHINES = {"386": b"01\0", "amd64": b"02\0", "arm": b"03\0", "arm64": b"04\0"}
FOLDER, FILE, LINK = 1, 2, 3


class _Table:
    """Metadata: blocks of 8 KB with a header of 2 bytes that says that they are not compressed."""

    def __init__(self) -> None:
        self.data = b""

    def add(self, data: bytes) -> tuple[int, int]:
        """Where it is, as the format wants it: the block's place in the table and the place in the block."""
        at = len(self.data)
        self.data += data
        return at // 8192 * 8194, at % 8192

    def stored(self) -> bytes:
        pieces = [self.data[at : at + 8192] for at in range(0, len(self.data), 8192)]
        return b"".join(struct.pack("<H", len(piece) | 0x8000) + piece for piece in pieces)


class SquashfsWriter:
    def __init__(self) -> None:
        self.blocks = b""
        self.inodes = _Table()
        self.folders = _Table()
        self.count = 0

    def inode(self, kind: int, mode: int, body: bytes) -> Inode:
        self.count += 1
        where = self.inodes.add(struct.pack("<HHHHII", kind, mode, 0, 0, 1_600_000_000, self.count) + body)
        return where, self.count, kind

    def file(self, mode: int, data: bytes) -> Inode:
        start = 96 + len(self.blocks)
        sizes = []
        for at in range(0, len(data), BLOCK):
            piece = data[at : at + BLOCK]
            packed = zlib.compress(piece)
            hole = not any(piece)
            sizes.append(0 if hole else len(packed) if len(packed) < len(piece) else len(piece) | 1 << 24)
            if not hole:
                self.blocks += packed if len(packed) < len(piece) else piece
        body = struct.pack("<IIII", start, 0xFFFFFFFF, 0, len(data)) + struct.pack(f"<{len(sizes)}I", *sizes)
        return self.inode(FILE, mode, body)

    def link(self, target: str) -> Inode:
        return self.inode(LINK, 0o777, struct.pack("<II", 1, len(target)) + target.encode())

    def folder(self, mode: int, inside: dict[str, Inode]) -> Inode:
        listing = b""
        for name, ((block, offset), number, kind) in sorted(inside.items()):
            listing += struct.pack("<III", 0, block, number)  # a head for each entry, which is allowed
            listing += struct.pack("<HhHH", offset, 0, kind, len(name.encode()) - 1) + name.encode()
        block, offset = self.folders.add(listing)
        return self.inode(FOLDER, mode, struct.pack("<IIHHI", block, 2, len(listing) + 3, offset, 0))

    def image(self, root: tuple[tuple[int, int], int, int]) -> bytes:
        inodes, folders = self.inodes.stored(), self.folders.stored()
        inode_table = 96 + len(self.blocks)
        folder_table = inode_table + len(inodes)
        ids = folder_table + len(folders)
        body = self.blocks + inodes + folders + struct.pack("<HI", 4 | 0x8000, 0) + struct.pack("<Q", ids)
        (block, offset), _, _ = root
        head = struct.pack("<4sIIIIHHHHHH", b"hsqs", self.count, 0, BLOCK, 0, 1, 17, 0x0211, 1, 4, 0)
        places = [
            block << 16 | offset,
            96 + len(body),
            ids + 6,
            _NOWHERE,
            inode_table,
            folder_table,
            _NOWHERE,
            _NOWHERE,
        ]
        return head + struct.pack("<8Q", *places) + body


def squashfs(entries: Sequence[Entry]) -> bytes:
    """A file system with these entries and their parents."""
    tree: dict[str, Entry | None] = {}
    for entry in entries:
        parts = entry.path.strip("/").split("/")
        for depth in range(1, len(parts)):
            tree.setdefault("/".join(parts[:depth]), None)
        tree["/".join(parts)] = entry
    writer = SquashfsWriter()

    def write(path: str) -> Inode:
        entry = tree.get(path)
        if entry is not None and entry.link is not None:
            return writer.link(entry.link)
        if entry is not None and entry.data is not None:
            return writer.file(entry.mode, entry.data)
        inside = [name for name in tree if name and os.path.dirname(name) == path]
        return writer.folder(0o755 if entry is None else entry.mode, {os.path.basename(n): write(n) for n in inside})

    return writer.image(write(""))


def descriptor(
    kind: int, offset: int, size: int, system: int = 1, part: int = 2, machine: bytes | None = None
) -> bytes:
    machine = _MACHINES[architecture()] if machine is None else machine
    head = struct.pack("<iBIII7q128s", kind, 1, 1, 0xF0000001, 0, offset, size, size, 0, 0, 0, 0, b"")
    return head + struct.pack("<ii3s373x", system, part, machine)


def sif(file_system: bytes, *more: bytes, **changes: bytes | int) -> bytes:
    """A SIF with one file system, and `more` descriptors before that one's."""
    table = 128
    start = 4096
    rows = [*more, descriptor(0x4004, start, len(file_system), **changes)]  # type: ignore[arg-type]
    head = struct.pack("<32s10s3s3s16s", b"#!/usr/bin/env run-singularity\n", b"SIF_MAGIC\0", b"01\0", b"02\0", b"")
    numbers = [0, 0, 0, len(rows), table, len(rows) * 585, start, len(file_system)]
    return (head + struct.pack("<8q", *numbers) + b"".join(rows)).ljust(start, b"\0") + file_system
